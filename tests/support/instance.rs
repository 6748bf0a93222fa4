//! An instance of the engine on a PostgreSQL database, in a process of its own, told what to do
//! over its standard input.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flashkit::Engine;
use flashkit::cards::ChargeCard;
use flashkit::lightning::LightningNode;
use flashkit::lightning::ldk::LdkNode;
use flashkit::ports::SystemClock;
use flashkit::settlement::RequestPayout;
use flashkit::store::postgres::{PostgresConfig, PostgresStore};
use flashkit::store::{KeyPath, KeyValue, KeyValueWrite};
use flashkit::testkit::chain::ChainEndpoint;
use flashkit::testkit::local_network;
use flashkit::treasury::{BookCapital, CapitalAccount, CapitalDirection};
use tokio::io::AsyncBufReadExt;
use tokio::sync::watch;

use super::shop::{self, sat};
use super::{books, key};

const DATABASE: &str = "FLASHKIT_INSTANCE_DATABASE";
const CHAIN: &str = "FLASHKIT_INSTANCE_CHAIN";
const LEASE_SECONDS: &str = "FLASHKIT_INSTANCE_LEASE_SECONDS";
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the node stays with an instance that was killed.
pub const LEASE: Duration = Duration::from_secs(5);

/// The parent's hold on an instance's process.
pub struct Instance {
    process: Child,
    orders: ChildStdin,
    answers: Receiver<String>,
}

impl Instance {
    /// Starts this test binary again, as an instance on `database`; with a node that reads the
    /// chain at `esplora`, or without one.
    pub fn start(database: &str, esplora: Option<&str>) -> Self {
        Self::start_with(database, esplora, LEASE)
    }

    pub fn start_with(database: &str, esplora: Option<&str>, lease: Duration) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "instance_process", "--nocapture"])
            .env(DATABASE, database)
            .env(CHAIN, esplora.unwrap_or_default())
            .env(LEASE_SECONDS, lease.as_secs().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let orders = process.stdin.take().unwrap();
        let output = process.stdout.take().unwrap();
        let (answer, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The test harness prints here too, and not always on a line of its own.
                if let Some((_, text)) = line.split_once("@ ") {
                    let _ = answer.send(text.to_owned());
                }
            }
        });
        let instance = Self {
            process,
            orders,
            answers,
        };
        assert_eq!(instance.answer(), "ready");
        instance
    }

    pub fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    pub fn answer(&self) -> String {
        let answer = self.answers.recv_timeout(PATIENCE);
        answer.expect("an answer of the instance")
    }

    pub fn ask(&mut self, order: &str) -> String {
        self.order(order);
        self.answer()
    }

    /// Asks until the answer is this one; how long that took.
    pub fn until(&mut self, order: &str, expected: &str) -> Duration {
        let begun = Instant::now();
        loop {
            let answer = self.ask(order);
            if answer == expected {
                return begun.elapsed();
            }
            assert!(begun.elapsed() < PATIENCE, "{order}: {answer}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// SIGKILL: nothing of the process runs any more.
    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// SIGSTOP: everything of the process stands still.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT: it goes on as if nothing had been.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let process = self.process.id().to_string();
        let sent = Command::new("kill").args([signal, &process]).status();
        assert!(sent.unwrap().success());
    }

    pub fn stop(mut self) {
        assert_eq!(self.ask("stop"), "stopped");
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The operator's node on a store, as every instance has it.
pub fn node_on(store: &PostgresStore, esplora: &str, lease: Duration) -> (Arc<LdkNode>, String) {
    let address = local_network::free_address().unwrap();
    let endpoint = ChainEndpoint::Esplora {
        url: esplora.to_owned(),
    };
    let mut config = local_network::config(*shop::master().node_entropy(), endpoint, &address);
    config.lease = lease;
    let state: Arc<dyn KeyValue> = Arc::new(store.clone());
    let runtime = tokio::runtime::Handle::current();
    let node = LdkNode::new(config, state, Arc::new(SystemClock), runtime).unwrap();
    (Arc::new(node), address)
}

pub async fn store_on(database: &str) -> PostgresStore {
    let config = PostgresConfig::new(database);
    PostgresStore::connect(config, Arc::new(SystemClock))
        .await
        .unwrap()
}

struct Body {
    store: PostgresStore,
    engine: Engine,
    node: Option<Arc<LdkNode>>,
}

/// The body of an instance's process; does nothing in any other.
pub async fn run_if_told() {
    let (Ok(database), Ok(chain)) = (std::env::var(DATABASE), std::env::var(CHAIN)) else {
        return;
    };
    let store = store_on(&database).await;
    let lease = std::env::var(LEASE_SECONDS).unwrap().parse().unwrap();
    let lease = Duration::from_secs(lease);
    let node = (!chain.is_empty()).then(|| node_on(&store, &chain, lease).0);
    let port = node.clone().map(|node| node as Arc<dyn LightningNode>);
    let engine = shop::engine_on(Arc::new(store.clone()), port).await;
    engine.start().await.unwrap();
    let body = Body {
        store,
        engine,
        node,
    };
    println!("@ ready");
    let (halt, halted) = watch::channel(false);
    let mut orders = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    while let Some(order) = orders.next_line().await.unwrap() {
        let words: Vec<&str> = order.split(' ').collect();
        match words[..] {
            ["load", name] => {
                let load = load(body.engine.clone(), name.to_owned(), halted.clone());
                tokio::spawn(load);
            }
            ["halt"] => halt.send(true).unwrap(),
            _ => println!("@ {}", body.carry_out(&words).await),
        }
        if words == ["stop"] {
            return;
        }
    }
}

/// Books one msat after another, each under a key of its own, with the same key until it is
/// answered; says when that was.
async fn load(engine: Engine, name: String, halted: watch::Receiver<bool>) {
    let issuer = engine.issuer();
    let mut number = 0_u64;
    while !*halted.borrow() {
        let command = BookCapital {
            key: key(&format!("{name}-{number}")),
            account: CapitalAccount::Onchain,
            direction: CapitalDirection::In,
            amount_msat: 1,
            reason: "load".to_owned(),
        };
        while engine
            .treasury()
            .book_capital(&issuer, command.clone())
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        number += 1;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        println!("@ acknowledged {}", now.as_millis());
    }
    println!("@ halted {number}");
}

impl Body {
    async fn carry_out(&self, words: &[&str]) -> String {
        let (engine, issuer) = (&self.engine, self.engine.issuer());
        match *words {
            ["status"] => format!("{:?}", engine.node_status()),
            ["fenced"] => {
                let node = self.node.as_ref().unwrap();
                let fenced = node.health().report().fenced;
                fenced.map_or("no", |error| error.code()).to_owned()
            }
            ["balances"] => match self.node.as_ref().unwrap().balances().await {
                Ok(_) => "balances".to_owned(),
                Err(error) => error.code().to_owned(),
            },
            // What a node would write that does not know that its epoch has ended.
            ["write", epoch] => {
                let path = KeyPath {
                    primary: "test".to_owned(),
                    secondary: String::new(),
                    key: "late".to_owned(),
                };
                let change = KeyValueWrite::Put {
                    path,
                    value: vec![1],
                };
                let written = self.store.write(epoch.parse().unwrap(), change).await;
                written
                    .err()
                    .map_or("written", |error| error.code())
                    .to_owned()
            }
            ["connect", node_id, address] => {
                let node = self.node.as_ref().unwrap();
                let connected = node.connect(node_id, address).await;
                let channels = node.channels().await.unwrap_or_default();
                let usable = channels.iter().any(|channel| channel.is_usable);
                let connected = connected.is_ok() && usable;
                if connected { "connected" } else { "not yet" }.to_owned()
            }
            ["charge", name, tap] => {
                let till = shop::merchant(engine, "Cookshop").await.till;
                let command = ChargeCard {
                    key: key(name),
                    tap: tap.to_owned(),
                    price: sat(1_000),
                    reference: name.to_owned(),
                    pin: None,
                };
                match engine.cards().charge(&till, command).await {
                    Ok(charge) => charge.amount_msat.to_string(),
                    Err(error) => error.code().to_owned(),
                }
            }
            ["payout", name, bolt11] => {
                let command = RequestPayout {
                    key: key(name),
                    merchant: shop::merchant(engine, "Cookshop").await.id,
                    bolt11: bolt11.to_owned(),
                };
                match engine.settlement().request_payout(&issuer, command).await {
                    Ok(payout) => format!("{} {:?}", payout.id, payout.state),
                    Err(error) => error.code().to_owned(),
                }
            }
            ["paid-out", id] => {
                let id = id.parse().unwrap();
                let payout = engine.settlement().payout(&issuer, id).await.unwrap();
                format!("{:?}", payout.state)
            }
            ["agrees"] => books::node_agrees(engine).await.to_string(),
            ["stop"] => {
                engine.stop().await.unwrap();
                "stopped".to_owned()
            }
            _ => panic!("no such order: {words:?}"),
        }
    }
}
