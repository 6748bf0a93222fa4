//! Spends: chosen, signed elsewhere, taken back, replaced, followed.

use flashkit::chain::bitcoin::{Psbt, Witness};
use flashkit::ids::{SpendId, WalletId};
use flashkit::ledger::Account;
use flashkit::wallets::{
    BumpSpend, CancelSpend, PrepareSpend, Spend, SpendOutput, SpendState, SpendTarget, SubmitSpend,
    WalletOwner, WalletSource, XpubKind,
};
use flashkit::{Error, testkit::chain::RegtestChain};

use crate::scene::{Scene, Signer};
use crate::sources::{script, servers};
use crate::support::key;

impl Scene {
    pub async fn prepare(
        &self,
        name: &str,
        wallet: WalletId,
        target: SpendTarget,
    ) -> Result<Spend, Error> {
        let command = PrepareSpend {
            key: key(name),
            wallet,
            target,
            fee_sat_per_kvb: Some(2_000),
        };
        let wallets = self.engine.wallets();
        Ok(wallets.prepare_spend(&self.issuer, command).await?.value)
    }

    pub async fn submit(
        &self,
        name: &str,
        spend: SpendId,
        psbt: Option<String>,
    ) -> Result<Spend, Error> {
        let command = SubmitSpend {
            key: key(name),
            spend,
            psbt,
        };
        let wallets = self.engine.wallets();
        Ok(wallets.submit_spend(&self.issuer, command).await?.value)
    }

    pub async fn state(&self, spend: SpendId) -> SpendState {
        let spend = self.engine.wallets().spend(&self.issuer, spend).await;
        spend.unwrap().value.state
    }
}

pub fn pay(amount_sat: u64) -> SpendTarget {
    let address = script(9).1;
    SpendTarget::Pay {
        outputs: vec![SpendOutput {
            address,
            amount_sat,
        }],
    }
}

pub fn everything() -> SpendTarget {
    SpendTarget::Everything {
        address: script(9).1,
    }
}

pub async fn fill(scene: &Scene, chain: &RegtestChain, wallet: WalletId, coins: &[u64]) {
    for (number, sats) in coins.iter().enumerate() {
        let address = scene.address(wallet, &format!("fill-{number}")).await;
        chain.fund(&address.address, *sats).unwrap();
    }
    chain.mine(1).unwrap();
    scene.look().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_key_signs_what_was_prepared_and_the_rest_comes_back() {
    let servers = servers().await;
    let chain = &servers.chain;
    chain.mine(110).unwrap();
    let scene = Scene::open(servers.sources[0].1.clone()).await;
    let owner = WalletOwner::Merchant {
        merchant: scene.merchant().await,
    };
    for (number, kind) in (10..).zip([
        XpubKind::Legacy,
        XpubKind::NestedSegwit,
        XpubKind::SegwitV0,
        XpubKind::Taproot,
    ]) {
        let signer = Signer::new(number);
        let wallet = scene.wallet(owner, signer.xpub(kind)).await.id;
        let name = |what: &str| format!("{what}-{kind:?}");
        for at in 0..2 {
            let address = scene.address(wallet, &name(&format!("fill-{at}"))).await;
            chain.fund(&address.address, 60_000).unwrap();
        }
        chain.mine(1).unwrap();
        scene.look().await;
        let spend = scene
            .prepare(&name("pay"), wallet, pay(80_000))
            .await
            .unwrap();
        assert_eq!(spend.coins.len(), 2, "{kind:?}");
        assert_eq!(spend.change_sat + spend.fee_sat + 80_000, 120_000);
        // Set aside: nobody else can have them.
        let again = scene
            .prepare(&name("again"), wallet, pay(10_000))
            .await
            .unwrap_err();
        assert_eq!(again.code(), "wallet.insufficient_funds");
        let signed = signer.sign(&spend.psbt);
        scene
            .submit(&name("submit"), spend.id, Some(signed))
            .await
            .unwrap();
        assert_eq!(
            scene.state(spend.id).await,
            SpendState::Broadcast,
            "{kind:?}"
        );
        let txid = scene
            .engine
            .wallets()
            .spend(&scene.issuer, spend.id)
            .await
            .unwrap();
        let txid = txid.value.txid.unwrap().parse().unwrap();
        // What was paid is what was asked for: two sat a vbyte, and not much more.
        let sent = chain.transaction(&txid).unwrap().unwrap();
        let vbytes = u64::try_from(sent.vsize()).unwrap();
        let fees = 2 * vbytes..=2 * vbytes + 40;
        assert!(
            fees.contains(&spend.fee_sat),
            "{kind:?}: {} of {fees:?}",
            spend.fee_sat
        );
        chain.mine(1).unwrap();
        scene.look().await;
        assert_eq!(scene.state(spend.id).await, SpendState::Confirmed);
        let left: Vec<u64> = scene
            .coins(wallet)
            .await
            .iter()
            .map(|coin| coin.amount_sat)
            .collect();
        assert_eq!(left, [spend.change_sat], "{kind:?}");
        // A reorganisation takes it out of its block: it is broadcast again, and comes back.
        chain.reorg(1).unwrap();
        scene.look().await;
        assert_eq!(scene.state(spend.id).await, SpendState::Broadcast);
        chain.mine(1).unwrap();
        scene.look().await;
        assert_eq!(scene.state(spend.id).await, SpendState::Confirmed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_sign_and_one_alone_does_not() {
    let servers = servers().await;
    servers.chain.mine(110).unwrap();
    let scene = Scene::open(servers.sources[1].1.clone()).await;
    let signers = [Signer::new(21), Signer::new(22), Signer::new(23)];
    let keys: Vec<String> = signers
        .iter()
        .map(|signer| signer.account("48'/1'/0'/2'") + "/<0;1>/*")
        .collect();
    let source = WalletSource::Descriptor {
        external: format!("wsh(sortedmulti(2,{}))", keys.join(",")),
        change: None,
    };
    let wallet = scene.wallet(WalletOwner::Operator, source).await.id;
    fill(&scene, &servers.chain, wallet, &[90_000]).await;
    let spend = scene.prepare("sweep", wallet, everything()).await.unwrap();
    assert_eq!(spend.outputs[0].amount_sat + spend.fee_sat, 90_000);
    let one = signers[0].sign(&spend.psbt);
    let refused = scene
        .submit("one", spend.id, Some(one.clone()))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), "wallet.not_signed");
    let two = signers[2].sign(&one);
    scene.submit("two", spend.id, Some(two)).await.unwrap();
    servers.chain.mine(1).unwrap();
    scene.look().await;
    assert_eq!(scene.state(spend.id).await, SpendState::Confirmed);
    assert_eq!(scene.coins(wallet).await, []);
}

/// As a signer gives it back that finishes what it signs: with the witness of each input, and nothing
/// beside it.
pub fn finished(signed: &str) -> String {
    let mut psbt: Psbt = signed.parse().unwrap();
    for input in &mut psbt.inputs {
        let (key, signature) = input.partial_sigs.pop_first().unwrap();
        let mut witness = Witness::new();
        witness.push(signature.to_vec());
        witness.push(key.to_bytes());
        input.final_script_witness = Some(witness);
        input.bip32_derivation.clear();
        input.sighash_type = None;
    }
    psbt.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_a_changed_and_a_garbled_psbt_change_nothing() {
    let servers = servers().await;
    servers.chain.mine(110).unwrap();
    let scene = Scene::open(servers.sources[0].1.clone()).await;
    let signer = Signer::new(31);
    let wallet = scene
        .wallet(WalletOwner::Operator, signer.xpub(XpubKind::SegwitV0))
        .await
        .id;
    fill(&scene, &servers.chain, wallet, &[50_000, 60_000]).await;
    let spend = scene.prepare("one", wallet, pay(20_000)).await.unwrap();
    let other = scene.prepare("other", wallet, pay(21_000)).await.unwrap();
    let signed = signer.sign(&spend.psbt);
    let stranger = Signer::new(32).sign(&spend.psbt);
    let mut garbled = signed.clone();
    garbled.replace_range(60..70, "AAAAAAAAAA");
    let mut wrong: Psbt = signed.parse().unwrap();
    let others: Psbt = signer.sign(&other.psbt).parse().unwrap();
    wrong.inputs[0].partial_sigs = others.inputs[0].partial_sigs.clone();
    // Signed by the right key, and leaving open where the money goes.
    let mut all_but: Psbt = spend.psbt.parse().unwrap();
    for input in &mut all_but.inputs {
        input.sighash_type = Some(flashkit::chain::bitcoin::EcdsaSighashType::None.into());
    }
    let all_but = signer.sign(&all_but.to_string());
    let none_and_finished = finished(&all_but);
    for (name, psbt, code) in [
        ("foreign", signer.sign(&other.psbt), "wallet.foreign_psbt"),
        ("unsigned", spend.psbt.clone(), "wallet.not_signed"),
        ("stranger", stranger, "wallet.not_signed"),
        ("wrong", wrong.to_string(), "wallet.not_signed"),
        ("none", all_but, "wallet.not_signed"),
        ("finished", none_and_finished, "wallet.not_signed"),
        ("text", "no psbt".to_owned(), "wallet.bad_psbt"),
        ("empty", String::new(), "wallet.bad_psbt"),
    ] {
        let refused = scene.submit(name, spend.id, Some(psbt)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{name}");
    }
    let refused = scene
        .submit("garbled", spend.id, Some(garbled))
        .await
        .unwrap_err();
    assert!(refused.code().starts_with("wallet."), "{refused}");
    assert_eq!(scene.state(spend.id).await, SpendState::Prepared);
    let cancel = CancelSpend {
        key: key("cancel"),
        spend: other.id,
    };
    scene
        .engine
        .wallets()
        .cancel_spend(&scene.issuer, cancel)
        .await
        .unwrap();
    let refused = scene
        .submit("late", other.id, Some(signer.sign(&other.psbt)))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), "wallet.spend_state");
    let balance = scene
        .engine
        .wallets()
        .balance(&scene.issuer, wallet)
        .await
        .unwrap();
    let reserved: u64 = if spend.coins.len() == 1 {
        balance.reserved_sat
    } else {
        0
    };
    assert!(reserved == 50_000 || reserved == 60_000, "{balance:?}");
    let signed = Some(finished(&signed));
    scene.submit("right", spend.id, signed).await.unwrap();
    assert_eq!(scene.state(spend.id).await, SpendState::Broadcast);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_pays_more_and_only_one_of_the_two_counts() {
    let servers = servers().await;
    let chain = &servers.chain;
    chain.mine(110).unwrap();
    let scene = Scene::open(servers.sources[0].1.clone()).await;
    let signer = Signer::new(41);
    let wallet = scene
        .wallet(WalletOwner::Operator, signer.xpub(XpubKind::Taproot))
        .await
        .id;
    fill(&scene, chain, wallet, &[50_000, 60_000]).await;
    let spend = scene.prepare("one", wallet, pay(30_000)).await.unwrap();
    scene
        .submit("one", spend.id, Some(signer.sign(&spend.psbt)))
        .await
        .unwrap();
    scene.look().await;
    let bump = |name: &str, fee_sat_per_kvb| {
        let command = BumpSpend {
            key: key(name),
            spend: spend.id,
            fee_sat_per_kvb,
        };
        let wallets = scene.engine.wallets();
        let issuer = scene.issuer.clone();
        async move { wallets.bump_spend(&issuer, command).await }
    };
    assert_eq!(
        bump("low", 2_100).await.unwrap_err().code(),
        "wallet.fee_too_low"
    );
    let better = bump("better", 9_000).await.unwrap().value;
    assert_eq!(
        (better.replaces, &better.outputs),
        (Some(spend.id), &spend.outputs)
    );
    assert!(spend.coins.iter().all(|coin| better.coins.contains(coin)));
    scene
        .submit("better", better.id, Some(signer.sign(&better.psbt)))
        .await
        .unwrap();
    assert_eq!(scene.state(better.id).await, SpendState::Broadcast);
    // Two on their way, one of which will be: what leaves is on hold for both until then.
    chain.mine(1).unwrap();
    scene.look().await;
    assert_eq!(scene.state(better.id).await, SpendState::Confirmed);
    assert_eq!(scene.state(spend.id).await, SpendState::Replaced);
    let account = Account::node_onchain();
    let balance = scene.store.balance(&account).await.unwrap();
    assert_eq!(balance.credits_pending, 0);
    // What came to addresses that no invoice has waits in suspense, and is there all the same.
    let left = i64::try_from(110_000 - 30_000 - better.fee_sat).unwrap() * 1_000;
    assert_eq!(
        balance.posted(flashkit::ledger::Side::Debit),
        i128::from(left)
    );
}
