//! Commands, answers and events as JSON: the seam between an engine and whoever talks to it.

use flashkit::cards::{
    ActivateCard, Activation, Card, CardLimits, CardSnapshot, Charge, ChargeCard, FreezeCard,
    IssueCard, ProgrammingKeys, RenewHolder, TopUpCard,
};
use flashkit::invoices::{CreateInvoice, GiveUpInvoice, Invoice};
use flashkit::ledger::{EventRecord, TransferRow};
use flashkit::money::{Price, Quote};
use flashkit::reports::{Audit, JournalVerdict, SignedHeads, TrialBalance};
use flashkit::rewards::{CreateProgram, PointsBalance, Program, RedeemPoints, Redemption};
use flashkit::settlement::{
    CreateMerchant, Merchant, MerchantBalance, PairTill, PairedTill, Payout, PayoutQuote,
    RequestPayout, ResolvePayout, RevokeTill, Till,
};
use flashkit::treasury::{AssignSuspense, BookCapital, Capital, SuspenseItem};
use flashkit::{Answer, Health};
use serde::Serialize;
use serde::de::DeserializeOwned;

macro_rules! all_of {
    ($data:ident: $($record:ty),* $(,)?) => {
        [$(same_again::<$record>($data), same_again::<Answer<$record>>($data)),*]
    };
}

pub fn run(data: &[u8]) -> bool {
    let decoded = all_of!(data:
        ActivateCard, Activation, AssignSuspense, Audit, BookCapital, Capital, Card, CardLimits,
        CardSnapshot, Charge, ChargeCard, CreateInvoice, CreateMerchant, CreateProgram,
        EventRecord, FreezeCard, GiveUpInvoice, Health, Invoice, IssueCard, JournalVerdict,
        Merchant, MerchantBalance, PairTill, PairedTill, Payout, PayoutQuote, PointsBalance,
        Price, Program, ProgrammingKeys, Quote, RedeemPoints, Redemption, RenewHolder,
        RequestPayout, ResolvePayout, RevokeTill, SignedHeads, SuspenseItem, Till, TopUpCard,
        TransferRow, TrialBalance, Vec<Invoice>, Vec<Payout>, Vec<SuspenseItem>, Vec<TransferRow>,
    );
    decoded.contains(&true)
}

/// What was read is written so that it reads and is written the same.
fn same_again<T: DeserializeOwned + Serialize + PartialEq>(data: &[u8]) -> bool {
    let Ok(read) = serde_json::from_slice::<T>(data) else {
        return false;
    };
    let written = serde_json::to_vec(&read).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert!(again == read, "{}", String::from_utf8_lossy(&written));
    true
}
