//! Three servers, one chain: every source says the same of it.

use std::sync::Arc;

use flashkit::chain::bitcoin::{Address, Network, OutPoint, ScriptBuf, WitnessProgram};
use flashkit::chain::{
    Bitcoind, ChainError, ChainSource, Electrum, Esplora, KnownTransaction, Standing, View, Watch,
    standing,
};
use flashkit::testkit::chain::{ChainEndpoint, ElectrumServer, EsploraServer, RegtestChain};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

pub struct Servers {
    pub chain: Arc<RegtestChain>,
    pub esplora: EsploraServer,
    _electrum: ElectrumServer,
    pub sources: Vec<(&'static str, Arc<dyn ChainSource>)>,
}

pub async fn servers() -> Servers {
    of(RegtestChain::in_memory()).await
}

/// Servers of a chain.
pub async fn of(chain: RegtestChain) -> Servers {
    let chain = Arc::new(chain);
    let esplora = chain.clone().serve().await.unwrap();
    let electrum = chain.clone().serve_electrum().await.unwrap();
    let sources: Vec<(&'static str, Arc<dyn ChainSource>)> = vec![
        ("esplora", Arc::new(Esplora::new(&esplora.url()).unwrap())),
        ("bitcoind", bitcoind(esplora.rpc())),
        (
            "electrum",
            Arc::new(Electrum::new(&electrum.url()).unwrap()),
        ),
    ];
    Servers {
        chain,
        esplora,
        _electrum: electrum,
        sources,
    }
}

pub fn bitcoind(endpoint: ChainEndpoint) -> Arc<dyn ChainSource> {
    let ChainEndpoint::BitcoindRpc {
        host,
        port,
        user,
        password,
    } = endpoint
    else {
        panic!("no bitcoind: {endpoint:?}");
    };
    Arc::new(Bitcoind::new(&host, port, &user, &password).unwrap())
}

/// A script that nobody else has.
pub fn script(number: u8) -> (ScriptBuf, String) {
    let program =
        WitnessProgram::new(flashkit::chain::bitcoin::WitnessVersion::V0, &[number; 20]).unwrap();
    let address = Address::from_witness_program(program, Network::Regtest);
    (address.script_pubkey(), address.to_string())
}

/// A server that says the same of every transaction, and has none.
async fn answering(status: u16) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = vec![0; 65_536];
            let length = stream.read(&mut asked).await.unwrap_or(0);
            let status = match asked[..length].starts_with(b"POST") {
                true => status,
                false => 404,
            };
            let answer =
                format!("HTTP/1.1 {status} no\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno");
            drop(stream.write_all(answer.as_bytes()).await);
        }
    });
    url
}

/// Too many questions, or a door that is shut, say nothing of a transaction: it may be taken later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_an_esplora_server_says_of_a_transaction_is_a_refusal() {
    let servers = servers().await;
    servers.chain.mine(101).unwrap();
    let txid = servers.chain.fund(&script(1).1, 50_000).unwrap();
    let paid = servers.chain.transaction(&txid).unwrap().unwrap();
    for (status, code) in [
        (400, "chain.transaction_refused"),
        (401, "chain.unreachable"),
        (403, "chain.unreachable"),
        (404, "chain.unreachable"),
        (408, "chain.unreachable"),
        (429, "chain.unreachable"),
        (503, "chain.unreachable"),
    ] {
        let source = Esplora::new(&answering(status).await).unwrap();
        let told = source.broadcast(&paid).await.unwrap_err();
        assert_eq!(told.code(), code, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_source_says_the_same_of_a_payment_on_its_way() {
    let servers = servers().await;
    let (ours, address) = script(1);
    let (other, _) = script(2);
    servers.chain.mine(101).unwrap();
    let mut since = Vec::new();
    for (_, source) in &servers.sources {
        since.push(source.tip().await.unwrap());
    }
    let txid = servers.chain.fund(&address, 50_000).unwrap();
    let paid = servers.chain.transaction(&txid).unwrap().unwrap();
    let known = KnownTransaction {
        txid,
        inputs: paid
            .input
            .iter()
            .map(|input| input.previous_output)
            .collect(),
        block: None,
    };
    let watch = |since| Watch {
        scripts: vec![ours.clone(), other.clone()],
        since: Some(since),
        ..Watch::default()
    };
    for ((name, source), since) in servers.sources.iter().zip(&since) {
        let view = source.look(&watch(*since)).await.unwrap();
        assert_eq!(only(&view), (&paid, None), "{name}");
    }
    servers.chain.mine(2).unwrap();
    for ((name, source), since) in servers.sources.iter().zip(&since) {
        let view = source.look(&watch(*since)).await.unwrap();
        let (tx, block) = only(&view);
        let block = block.unwrap();
        assert_eq!((tx, block.height), (&paid, 102), "{name}");
        assert_eq!(
            source.block_hash(102).await.unwrap(),
            Some(block.hash),
            "{name}"
        );
        // That it is in the block is proved by the block's header.
        let branch = source.merkle_branch(txid, block).await.unwrap().unwrap();
        let header = source.header(block.hash).await.unwrap().unwrap();
        assert_eq!(header.block_hash(), block.hash);
        assert_eq!(branch.root(txid), Some(header.merkle_root), "{name}");
        let found = source.transaction(txid, Some(block.hash)).await.unwrap();
        assert_eq!(found.as_ref(), Some(&paid), "{name}");
        assert_eq!(source.block_hash(104).await.unwrap(), None, "{name}");
        let rates = source.fee_rates().await.unwrap();
        assert!(
            rates.fast_sat_per_kvb >= rates.slow_sat_per_kvb,
            "{name}: {rates:?}"
        );
        assert!(
            (1_000..=10_000).contains(&rates.normal_sat_per_kvb),
            "{name}: {rates:?}"
        );
        // One that the network has is taken as such; one that spends what is spent is not.
        source.broadcast(&paid).await.unwrap();
        let mut rival = paid.clone();
        rival.output.truncate(1);
        let refused = source.broadcast(&rival).await.unwrap_err();
        assert!(
            matches!(refused, ChainError::TransactionRefused { .. }),
            "{name}: {refused}"
        );
    }
    // A reorganisation puts it back into the mempool, another one ends it for a rival.
    servers.chain.reorg(2).unwrap();
    let block = since[0];
    for (name, source) in &servers.sources {
        let known = KnownTransaction {
            block: Some(block),
            ..known.clone()
        };
        let watch = Watch {
            known: vec![known.clone()],
            ..watch(block)
        };
        let view = source.look(&watch).await.unwrap();
        let now = standing(
            &known,
            &View {
                tip: view.tip,
                ..view.clone()
            },
        );
        if *name == "bitcoind" {
            // The block that it was last seen in is looked at, and this one is still there.
            continue;
        }
        assert_eq!(now, Some(Standing::Waiting), "{name}");
    }
    let mut rival = paid.clone();
    rival.output[0].script_pubkey = other.clone();
    let rival_id = rival.compute_txid();
    servers.chain.replace(0, vec![vec![rival]]).unwrap();
    for (name, source) in &servers.sources {
        let watch = Watch {
            known: vec![known.clone()],
            ..watch(block)
        };
        let view = source.look(&watch).await.unwrap();
        let Some(Standing::Gone { rival: Some(by) }) = standing(&known, &view) else {
            panic!("{name}: {view:?}");
        };
        assert_eq!(
            (by.id(), by.block.is_some()),
            (Some(rival_id), true),
            "{name}"
        );
    }
}

fn only(
    view: &View,
) -> (
    &flashkit::chain::bitcoin::Transaction,
    Option<flashkit::chain::BlockId>,
) {
    let [seen] = view.seen.as_slice() else {
        panic!("{view:?}");
    };
    (&seen.transaction, seen.block)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_reads_blocks_reads_them_in_bounded_pieces() {
    let servers = servers().await;
    let source = bitcoind(servers.esplora.rpc());
    let (ours, address) = script(1);
    servers.chain.mine(101).unwrap();
    let since = source.tip().await.unwrap();
    let txid = servers.chain.fund(&address, 50_000).unwrap();
    servers.chain.mine(1).unwrap();
    servers.chain.mine(299).unwrap();
    let known = KnownTransaction {
        txid,
        inputs: vec![OutPoint::new(txid, 9)],
        block: None,
    };
    let mut watch = Watch {
        scripts: vec![ours],
        known: vec![KnownTransaction {
            txid: "11".repeat(32).parse().unwrap(),
            ..known
        }],
        since: Some(since),
        ..Watch::default()
    };
    let (mut reached, mut found) = (Vec::new(), 0);
    loop {
        let view = source.look(&watch).await.unwrap();
        reached.push(view.through.height);
        found += view.seen.len();
        // Of a transaction that was not found nothing is concluded before the end.
        let gone = standing(&watch.known[0], &view);
        assert_eq!(gone.is_some(), view.is_complete(), "{view:?}");
        if view.is_complete() {
            break;
        }
        watch.since = Some(view.through);
    }
    assert_eq!((reached, found), (vec![245, 389, 401], 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_is_a_typed_refusal_without_its_address() {
    for source in [
        Arc::new(Esplora::new("http://user:secret@127.0.0.1:1").unwrap()) as Arc<dyn ChainSource>,
        Arc::new(Bitcoind::new("127.0.0.1", 1, "user", "secret").unwrap()),
        Arc::new(Electrum::new("tcp://127.0.0.1:1").unwrap()),
    ] {
        let error = source.tip().await.unwrap_err();
        assert_eq!(
            (error.code(), error.is_retryable()),
            ("chain.unreachable", true)
        );
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
