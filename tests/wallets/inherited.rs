//! What waits and spends what waits: it can vanish with that, whatever it says of itself.

use flashkit::chain::bitcoin::{Address, Network, Psbt, Sequence, Transaction};
use flashkit::invoices::InvoiceState;
use flashkit::wallets::{WalletOwner, WalletSource, XpubKind};

use crate::scene::{Scene, Signer};
use crate::sources::servers;
use crate::spending::{fill, finished, pay};

/// A spend of 30,000 sats that goes to an address instead, and does not say that it may be replaced.
fn to_the_shop(signer: &Signer, psbt: &str, address: &str) -> Transaction {
    let mut psbt: Psbt = psbt.parse().unwrap();
    let address: Address<_> = address.parse().unwrap();
    let script = address.require_network(Network::Regtest).unwrap();
    let transaction = &mut psbt.unsigned_tx;
    transaction.input[0].sequence = Sequence::MAX;
    let mut outputs = transaction.output.iter_mut();
    let paid = outputs.find(|output| output.value.to_sat() == 30_000);
    paid.unwrap().script_pubkey = script.script_pubkey();
    let signed = finished(&signer.sign(&psbt.to_string()));
    signed.parse::<Psbt>().unwrap().extract_tx().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_spends_what_waits_settles_nothing_while_it_waits() {
    for at in 0..3 {
        for is_in_block in [false, true] {
            let servers = servers().await;
            let chain = &servers.chain;
            chain.mine(110).unwrap();
            let (source, signer) = (&servers.sources[at].1, Signer::new(61));
            let customer = Scene::open(source.clone()).await;
            let keys = signer.xpub(XpubKind::SegwitV0);
            let wallet = customer.wallet(WalletOwner::Operator, keys).await.id;
            fill(&customer, chain, wallet, &[100_000]).await;
            let first = customer.prepare("first", wallet, pay(20_000)).await;
            let first = first.unwrap();
            let signed = Some(signer.sign(&first.psbt));
            customer.submit("first", first.id, signed).await.unwrap();
            if is_in_block {
                chain.mine(1).unwrap();
            }
            customer.look().await;
            let second = customer.prepare("second", wallet, pay(30_000)).await;
            let shop = Scene::open(source.clone()).await;
            let merchant = shop.merchant().await;
            shop.wallet(WalletOwner::Operator, WalletSource::Node).await;
            let sale = shop.invoice("sale", merchant, 30_000, 0).await;
            let address = &sale.on_chain.as_ref().unwrap().address;
            let paying = to_the_shop(&signer, &second.unwrap().psbt, address);
            chain.submit(paying).unwrap();
            shop.look().await;
            let state = match is_in_block {
                true => InvoiceState::Settled,
                false => InvoiceState::Processing,
            };
            assert_eq!(shop.now(sale.id).await.state, state, "{at}");
            chain.mine(1).unwrap();
            shop.look().await;
            assert_eq!(shop.now(sale.id).await.state, InvoiceState::Settled, "{at}");
        }
    }
}
