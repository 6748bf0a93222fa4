//! What a person does while it is decided what the chain took away.

use std::sync::Arc;

use flashkit::Engine;
use flashkit::cards::CardLimits;
use flashkit::invoices::{
    CreateInvoice, Custody, GivenAddress, InvoiceOptions, InvoicePurpose, InvoiceState,
    OnChainFact, OnChainPlace, Outpoint, Rail,
};
use flashkit::ledger::Account;
use flashkit::ports::{Clock, SystemClock};
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::chain::nobodys_address;
use flashkit::treasury::{AssignSuspense, SuspenseTarget};

use crate::support::gated_store::{GatedStore, Pause};
use crate::support::key;
use crate::support::shop::{self, SAT, sat};

fn fact(output: u8, is_here: bool) -> OnChainFact {
    let block = OnChainPlace::Block {
        height: 7,
        hash: "ab".repeat(32),
        confirmations: 1,
    };
    OnChainFact {
        outpoint: Outpoint {
            txid: [output; 32],
            vout: 0,
        },
        amount_sat: 10_000,
        first_known_ms: SystemClock.now_ms(),
        place: match is_here {
            true => block,
            false => OnChainPlace::Gone { replaced_by: None },
        },
    }
}

/// The price vanishes, and what was surplus beside it is about to count in its place; before it is
/// taken out of suspense, a person gives it to a card. The card keeps it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_assigned_while_a_reorg_is_decided_stays_where_it_was_given() {
    let (pause, books) = (
        Arc::new(Pause::default()),
        MemoryStore::new(Arc::new(SystemClock)),
    );
    let store: Arc<dyn Store> = Arc::new(books.clone());
    let store = Arc::new(GatedStore::pausing(store, pause.clone()));
    let builder = Engine::builder(store, shop::master()).network("regtest");
    let engine = builder.rates(shop::rates()).open().await.unwrap();
    let merchant = shop::merchant(&engine, "Cookshop").await;
    let card = shop::card(&engine, shop::UID, CardLimits::default()).await;
    let (issuer, address) = (engine.issuer(), nobodys_address("sale"));
    let command = CreateInvoice {
        key: key("sale"),
        purpose: InvoicePurpose::Sale {
            merchant: merchant.id,
        },
        price: Some(sat(10_000)),
        description: "lunch".to_owned(),
        expiry_seconds: 600,
        options: InvoiceOptions {
            rails: vec![Rail::OnChain],
            address: Some(GivenAddress {
                address: address.clone(),
                custody: Custody::Operator,
            }),
            ..InvoiceOptions::default()
        },
    };
    let invoices = engine.invoices();
    let sale = invoices.create(&issuer, command).await.unwrap().value;
    for output in [1, 2] {
        let here = fact(output, true);
        let told = invoices.observe_on_chain(&issuer, &address, &here);
        assert!(told.await.unwrap());
    }
    let waits = engine.treasury().suspense(&issuer, None, 9).await.unwrap();
    let item = waits.value[0].id;
    // It was seen there once, and is read again to be taken.
    pause.arm_read("suspense", &item.to_string(), 1);
    let telling = {
        let (invoices, issuer, address) = (invoices.clone(), issuer.clone(), address.clone());
        tokio::spawn(async move {
            let gone = fact(1, false);
            invoices.observe_on_chain(&issuer, &address, &gone).await
        })
    };
    pause.reached().await;
    let command = AssignSuspense {
        key: key("give"),
        item,
        to: SuspenseTarget::Card { card: card.id },
        reason: "the holder sent it".to_owned(),
    };
    let treasury = engine.treasury();
    treasury.assign_suspense(&issuer, command).await.unwrap();
    pause.release();
    assert!(telling.await.unwrap().unwrap());
    let has = async |account: Account| {
        let balance = books.balance(&account).await.unwrap();
        balance.posted(account.kind().side())
    };
    let given = i128::from(10_000 * SAT);
    assert_eq!(has(Account::card_balance(card.id)).await, given);
    assert_eq!(has(Account::merchant_payable(merchant.id)).await, 0);
    assert_eq!(has(Account::suspense()).await, 0);
    assert_eq!(has(Account::node_onchain()).await, given);
    let unpaid = invoices.get(&issuer, sale.id).await.unwrap().value;
    assert_eq!(
        (unpaid.state, unpaid.due_msat()),
        (InvoiceState::New, 10_000 * SAT)
    );
    engine.stop().await.unwrap();
}
