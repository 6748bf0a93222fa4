//! An engine in a process of its own, told what to do over its standard input.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use flashkit::Engine;
use flashkit::cards::lnurl::LnurlRequest;
use flashkit::lightning::LightningNode;
use flashkit::lightning::ldk::LdkNode;
use flashkit::ports::SystemClock;
use flashkit::settlement::RequestPayout;
use flashkit::store::KeyValue;
use flashkit::store::sqlite::SqliteStore;
use flashkit::testkit::chain::ChainEndpoint;
use flashkit::testkit::local_network;
use flashkit::treasury::{BookCapital, CapitalAccount, CapitalDirection};
use tokio::io::AsyncBufReadExt;

use super::gate::{Gate, GatedNode, GatedState};
use super::gated_store::GatedStore;
use super::shop::{self, Merchant, sat};
use super::{books, key};

const FOLDER: &str = "FLASHKIT_CHILD_FOLDER";
const CHAIN: &str = "FLASHKIT_CHILD_CHAIN";
const PATIENCE: Duration = Duration::from_secs(60);

/// The parent's hold on an engine's process.
pub struct EngineProcess {
    process: Child,
    orders: ChildStdin,
    answers: Receiver<String>,
}

impl EngineProcess {
    /// Starts this test binary again, as an engine on `folder`.
    pub fn start(folder: &Path, chain: &ChainEndpoint) -> Self {
        let chain = match chain {
            ChainEndpoint::Esplora { url } => format!("esplora {url}"),
            ChainEndpoint::BitcoindRpc {
                host,
                port,
                user,
                password,
            } => {
                format!("bitcoind {host} {port} {user} {password}")
            }
        };
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "engine_process", "--nocapture"])
            .env(FOLDER, folder)
            .env(CHAIN, chain)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let (orders, output) = (
            process.stdin.take().unwrap(),
            process.stdout.take().unwrap(),
        );
        let (answer, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The test harness prints here too, and not always on a line of its own.
                if let Some((_, text)) = line.split_once("@ ") {
                    let _ = answer.send(text.to_owned());
                }
            }
        });
        let mut engine = Self {
            process,
            orders,
            answers,
        };
        assert_eq!(engine.answer(), "ready");
        engine
    }

    pub fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    pub fn answer(&mut self) -> String {
        self.answers
            .recv_timeout(PATIENCE)
            .expect("an answer of the engine's process")
    }

    pub fn ask(&mut self, order: &str) -> String {
        self.order(order);
        self.answer()
    }

    /// SIGKILL: nothing of the process runs any more.
    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub fn stop(mut self) {
        assert_eq!(self.ask("stop"), "stopped");
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for EngineProcess {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The body of the engine's process; does nothing in any other.
pub async fn run_if_told() {
    let (Ok(folder), Ok(chain)) = (std::env::var(FOLDER), std::env::var(CHAIN)) else {
        return;
    };
    let gate = Arc::new(Gate::default());
    tokio::spawn(gate.clone().watch());
    let (engine, node) = open(Path::new(&folder), &chain, &gate).await;
    println!("@ ready");
    let mut orders = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    while let Some(order) = orders.next_line().await.unwrap() {
        let words: Vec<&str> = order.split(' ').collect();
        if let ["arm", boundary] = words[..] {
            gate.arm(boundary);
            println!("@ armed");
            continue;
        }
        if words == ["times-on-its-way"] {
            println!("@ {}", gate.times_on_its_way());
            continue;
        }
        println!("@ {}", carry_out(&engine, &node, &words).await);
        if words == ["stop"] {
            return;
        }
    }
}

async fn open(folder: &Path, chain: &str, gate: &Arc<Gate>) -> (Engine, Arc<LdkNode>) {
    let endpoint = match chain.split(' ').collect::<Vec<_>>()[..] {
        ["esplora", url] => ChainEndpoint::Esplora {
            url: url.to_owned(),
        },
        ["bitcoind", host, port, user, password] => ChainEndpoint::BitcoindRpc {
            host: host.to_owned(),
            port: port.parse().unwrap(),
            user: user.to_owned(),
            password: password.to_owned(),
        },
        _ => panic!("no such chain: {chain}"),
    };
    let clock = Arc::new(SystemClock);
    let store = SqliteStore::open(folder.join("books.db"), clock.clone()).unwrap();
    let state: Arc<dyn KeyValue> = Arc::new(GatedState::new(Arc::new(store.clone()), gate.clone()));
    let address = local_network::free_address().unwrap();
    let config = local_network::config(*shop::master().node_entropy(), endpoint, &address);
    let runtime = tokio::runtime::Handle::current();
    let node = Arc::new(LdkNode::new(config, state, clock, runtime).unwrap());
    let gated = Arc::new(GatedNode::new(node.clone(), gate.clone()));
    let store = Arc::new(GatedStore::new(Arc::new(store), gate.clone()));
    let engine = shop::engine_on(store, Some(gated)).await;
    engine.start().await.unwrap();
    (engine, node)
}

async fn carry_out(engine: &Engine, node: &Arc<LdkNode>, words: &[&str]) -> String {
    let issuer = engine.issuer();
    match *words {
        ["connect", node_id, address] => {
            // The peer may not have noticed yet that the process before is gone.
            let mut last = String::new();
            for _ in 0..400 {
                let connected = node.connect(node_id, address).await;
                let channels = node.channels().await.unwrap();
                if connected.is_ok() && channels.iter().any(|channel| channel.is_usable) {
                    return "connected".to_owned();
                }
                last = format!("{connected:?} {channels:?}");
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            format!("not connected: {last}")
        }
        ["sale", name, sats] => {
            let merchant = the_merchant(engine).await;
            let price = sat(sats.parse().unwrap());
            let invoice = shop::sale(engine, &merchant, name, price).await;
            format!("{} {}", invoice.id, invoice.bolt11)
        }
        ["invoice", id] => {
            let invoice = engine
                .invoices()
                .get(&issuer, id.parse().unwrap())
                .await
                .unwrap();
            format!("{:?}", invoice.state)
        }
        ["payout", name, bolt11] => {
            let merchant = the_merchant(engine).await.id;
            let command = RequestPayout {
                key: key(name),
                merchant,
                bolt11: bolt11.to_owned(),
            };
            match engine.settlement().request_payout(&issuer, command).await {
                Ok(payout) => format!("{} {:?}", payout.id, payout.state),
                Err(error) => error.code().to_owned(),
            }
        }
        // What a till reads that asks by LNURL.
        ["lnurl", url] => {
            let request = LnurlRequest {
                url: url.to_owned(),
                till: Some(the_merchant(engine).await.till),
                source: None,
            };
            engine.cards().answer(&request).await.body
        }
        ["card-payments", card] => {
            let card = card.parse().unwrap();
            let cards = engine.cards();
            let payments = cards.list_payments(&issuer, card, None, 1_000).await;
            serde_json::to_string(&payments.unwrap().value).unwrap()
        }
        ["books"] => {
            let books = engine.reports().trial_balance(&issuer).await.unwrap();
            assert!(books.is_balanced(), "{:?}", books.totals);
            serde_json::to_string(&books.lines).unwrap()
        }
        ["agrees"] => books::node_agrees(engine).await.to_string(),
        ["audit"] => {
            let audit = engine.reports().audit(&issuer).await.unwrap();
            serde_json::to_string(&audit.controls).unwrap()
        }
        // What was booked before stays; `amount` below zero is money taken out.
        ["capital", account, name, amount] => {
            let amount: i64 = amount.parse().unwrap();
            let command = BookCapital {
                key: key(name),
                account: match account {
                    "channels" => CapitalAccount::Channels,
                    _ => CapitalAccount::Onchain,
                },
                direction: match amount {
                    0.. => CapitalDirection::In,
                    _ => CapitalDirection::Out,
                },
                amount_msat: amount.abs(),
                reason: name.to_owned(),
            };
            engine
                .treasury()
                .book_capital(&issuer, command)
                .await
                .unwrap();
            "booked".to_owned()
        }
        ["channels"] => node.channels().await.unwrap().len().to_string(),
        ["node-id"] => node.node_id(),
        ["address"] => node.listening_addresses()[0].clone(),
        ["sync"] => {
            node.sync().await.unwrap();
            "synced".to_owned()
        }
        ["stop"] => {
            engine.stop().await.unwrap();
            "stopped".to_owned()
        }
        _ => panic!("no such order: {words:?}"),
    }
}

async fn the_merchant(engine: &Engine) -> Merchant {
    shop::merchant(engine, "Cookshop").await
}
