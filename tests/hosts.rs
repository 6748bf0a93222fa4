//! Hosts of every kind: runtimes without timers, no runtime at all, engines that were stopped.

mod support;

use std::sync::Arc;

use flashkit::Engine;
use flashkit::lightning::simulated::SimulatedNetwork;
use flashkit::ports::{SystemClock, TokioExecutor};
use flashkit::store::{MemoryStore, Store};
use support::shop::{self, sat};

fn store() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(Arc::new(SystemClock)))
}

/// Tokio's own timers panic in such a runtime; the engine's work must not.
#[test]
fn a_runtime_without_timers_is_enough() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let engine = runtime.block_on(async {
        let network = SimulatedNetwork::new(Arc::new(SystemClock));
        let node = network.node(0);
        let engine = shop::engine_on(store(), Some(Arc::new(node))).await;
        engine.start().await.unwrap();
        let merchant = shop::merchant(&engine, "Cookshop").await;
        shop::sale(&engine, &merchant, "sale", sat(1_000)).await;
        engine
    });
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert!(engine.last_problem().is_none());
    runtime.block_on(engine.stop()).unwrap();
}

#[test]
fn outside_of_a_runtime_an_executor_is_asked_for() {
    let open = || Engine::builder(store(), shop::master());
    let error = futures_executor::block_on(open().open())
        .map(drop)
        .unwrap_err();
    assert_eq!(error.code(), "command.no_executor");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let executor = Arc::new(TokioExecutor::new(runtime.handle().clone()));
    futures_executor::block_on(open().executor(executor).open()).unwrap();
}

#[tokio::test]
async fn an_engine_that_was_stopped_says_so() {
    let engine = shop::engine_on(store(), None).await;
    engine.start().await.unwrap();
    engine.start().await.unwrap();
    engine.stop().await.unwrap();
    assert_eq!(engine.start().await.unwrap_err().code(), "store.closed");
}
