//! A chain of the simulation's own: transactions that pay to addresses, blocks that take them in,
//! replacements, double spends, and blocks that come to nothing.
//!
//! The host watches it and tells the engine what is true of an output, until that is answered.
//! What is told can be late by any number of changes, and told twice; it is never older than what
//! was told before.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::commands::{Slot, put_in, taken};
use super::executor::at_once;
use super::tally::Fault;
use super::world::World;
use crate::Error;
use crate::invoices::{OnChainFact, OnChainPlace, Outpoint};
use crate::lightning::{LightningNode, PaymentState};
use crate::ports::{Clock, Executor};

/// More than anybody waits for.
const DEEP: u32 = 3;

/// Where a transaction is, as it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Mempool { replaceable: bool },
    Block { block: u64, confirmations: u32 },
    Gone { by: u64 },
}

/// Where it is on the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Mempool,
    Block { height: usize },
    Gone { by: u64 },
}

/// An output that pays to an address of the operator's or of a merchant's.
pub(super) struct Receipt {
    pub(super) number: u64,
    pub(super) address: String,
    pub(super) amount_sat: i64,
    pub(super) first_known_ms: i64,
    /// It is the operator's: what is in a block is in the node's wallet.
    pub(super) is_operators: bool,
    replaceable: bool,
    at: Where,
    /// What the engine knows for sure.
    told: Option<Place>,
    /// What it was told last.
    telling: Option<Place>,
    /// Nothing was told since that it may have taken without an answer.
    is_sure: bool,
}

/// Calls that tell of one output.
struct Telling {
    id: String,
    calls: Vec<Slot<Result<bool, Error>>>,
}

/// The chain, and what the host has told of it.
#[derive(Default)]
pub(super) struct Chain {
    /// By outpoint.
    pub(super) receipts: BTreeMap<String, Receipt>,
    /// The numbers of its blocks.
    blocks: Vec<u64>,
    made: u64,
    telling: Vec<Telling>,
    /// What was answered last to what could not be told.
    pub(super) refused: Option<String>,
}

fn outpoint(number: u64) -> Outpoint {
    let mut txid = [0; 32];
    txid[..8].copy_from_slice(&number.to_be_bytes());
    Outpoint { txid, vout: 0 }
}

fn hex_of(number: u64) -> String {
    hex::encode(outpoint(number).txid)
}

impl Receipt {
    fn is_current(&self, blocks: &[u64]) -> bool {
        self.is_sure && self.told == Some(self.place(blocks))
    }

    fn place(&self, blocks: &[u64]) -> Place {
        match self.at {
            Where::Mempool => Place::Mempool {
                replaceable: self.replaceable,
            },
            Where::Block { height } => Place::Block {
                block: blocks.get(height).copied().unwrap_or(0),
                confirmations: u32::try_from(blocks.len() - height)
                    .unwrap_or(DEEP)
                    .min(DEEP),
            },
            Where::Gone { by } => Place::Gone { by },
        }
    }

    /// What is in a block is the wallet's.
    pub(super) fn is_in_block(&self) -> bool {
        matches!(self.at, Where::Block { .. })
    }

    fn fact(&self, place: Place) -> OnChainFact {
        OnChainFact {
            outpoint: outpoint(self.number),
            amount_sat: self.amount_sat,
            first_known_ms: self.first_known_ms,
            place: match place {
                Place::Mempool { replaceable } => OnChainPlace::Mempool { replaceable },
                Place::Block {
                    block,
                    confirmations,
                } => OnChainPlace::Block {
                    height: 1,
                    hash: hex_of(block),
                    confirmations,
                },
                Place::Gone { by } => OnChainPlace::Gone {
                    replaced_by: Some(hex_of(by)),
                },
            },
        }
    }
}

impl Place {
    /// As the engine writes it down: confirmations, and the block.
    pub(super) fn written(self) -> (i64, Option<String>) {
        match self {
            Self::Block {
                block,
                confirmations,
            } => (i64::from(confirmations), Some(hex_of(block))),
            _ => (0, None),
        }
    }
}

impl Chain {
    fn number(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    /// What the engine may know of an output.
    pub(super) fn known(&self, reference: &str) -> [Option<Place>; 2] {
        let receipt = self.receipts.get(reference);
        receipt.map_or([None, None], |it| [it.telling, it.told])
    }

    /// How many outputs the engine does not know the truth of.
    pub(super) fn untold(&self) -> usize {
        let receipts = self.receipts.values();
        receipts.filter(|it| !it.is_current(&self.blocks)).count()
    }

    /// Something is in no block yet.
    pub(super) fn waits(&self) -> bool {
        let mut receipts = self.receipts.values();
        receipts.any(|it| it.at == Where::Mempool)
    }

    fn in_mempool(&self) -> Vec<String> {
        let waiting = self.receipts.iter();
        waiting
            .filter(|(_, it)| it.at == Where::Mempool)
            .map(|(id, _)| id.clone())
            .collect()
    }

    fn put(&mut self, id: &str, at: Where) {
        if let Some(receipt) = self.receipts.get_mut(id) {
            receipt.at = at;
        }
    }

    /// The process is gone, and all calls with it.
    pub(super) fn crash(&mut self) {
        self.telling.clear();
    }

    fn is_being_told(&self, id: &str) -> bool {
        self.telling.iter().any(|it| it.id == id)
    }
}

impl World {
    /// Somebody sends money to an address: of an invoice, now and then of one that is over.
    pub(super) fn somebody_sends(&mut self) {
        let any = self.random.chance(150);
        let open: Vec<(String, i64, bool)> = self
            .model
            .invoices
            .values()
            .filter(|it| any || it.waits_on_chain())
            .filter_map(|it| Some((it.address.clone()?, it.due_msat(), it.is_operators)))
            .collect();
        let Some((address, due_msat, is_operators)) = self.random.pick(&open).cloned() else {
            return;
        };
        let due_sat = due_msat / 1_000;
        let amount_sat = match self.random.below(10) {
            0 | 1 => due_sat / 2,
            2 | 3 => due_sat + self.random.between(1, 500),
            _ => due_sat,
        };
        let replaceable = self.random.chance(500);
        self.send_to(address, amount_sat.max(600), is_operators, replaceable);
    }

    fn send_to(
        &mut self,
        address: String,
        amount_sat: i64,
        is_operators: bool,
        replaceable: bool,
    ) -> u64 {
        let number = self.chain.number();
        let receipt = Receipt {
            number,
            address,
            amount_sat,
            first_known_ms: self.ground.now_ms(),
            is_operators,
            replaceable,
            at: Where::Mempool,
            told: None,
            telling: None,
            is_sure: false,
        };
        let id = outpoint(number).to_string();
        self.chain.receipts.insert(id, receipt);
        self.ground.trace("sent on chain", number);
        number
    }

    /// A block is found, and takes in what waits; most of it.
    pub(super) fn find_block(&mut self, takes_all: bool) {
        let number = self.chain.number();
        let height = self.chain.blocks.len();
        self.chain.blocks.push(number);
        for id in self.chain.in_mempool() {
            if takes_all || self.random.chance(800) {
                self.chain.put(&id, Where::Block { height });
            }
        }
        self.ground.trace("block", number);
        self.ground.find_block();
        // What was not claimed by now is its sender's again.
        for hash in self.node.overdue() {
            let record = self.true_node.record(hash);
            let waits = record.is_some_and(|record| record.state == PaymentState::Pending);
            if waits && at_once(self.true_node.fail(hash)).is_some_and(|failed| failed.is_ok()) {
                self.ground.struck(Fault::TimedOut);
            }
        }
    }

    /// The last blocks come to nothing. What was in them waits again, or was spent twice; most of
    /// the time another block takes their place at once.
    pub(super) fn reorganise(&mut self) {
        let depth = self.random.below(3) + 1;
        let from = self.chain.blocks.len().saturating_sub(depth);
        if from == self.chain.blocks.len() {
            return;
        }
        self.ground.struck(Fault::ChainReorged);
        self.chain.blocks.truncate(from);
        let gone = self.chain.receipts.iter();
        let gone: Vec<String> = gone
            .filter(|(_, it)| matches!(it.at, Where::Block { height } if height >= from))
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            let spent_twice = self.random.chance(300);
            let at = if spent_twice {
                self.ground.struck(Fault::SpentTwice);
                let by = self.chain.number();
                Where::Gone { by }
            } else {
                Where::Mempool
            };
            self.chain.put(&id, at);
        }
        if self.random.chance(600) {
            self.find_block(false);
        }
    }

    /// A transaction that waits is replaced by another one, most often to the same address.
    pub(super) fn replace_one(&mut self) {
        let waiting = self.chain.in_mempool();
        let Some(id) = self.random.pick(&waiting).cloned() else {
            return;
        };
        let Some(receipt) = self.chain.receipts.get(&id) else {
            return;
        };
        let (address, amount_sat) = (receipt.address.clone(), receipt.amount_sat);
        let is_operators = receipt.is_operators;
        self.ground.struck(Fault::ChainReplaced);
        let by = if self.random.chance(700) {
            self.send_to(address, amount_sat, is_operators, true)
        } else {
            self.chain.number()
        };
        self.chain.put(&id, Where::Gone { by });
    }

    /// What was spent otherwise is there after all: whatever had taken its place is not.
    pub(super) fn bring_back(&mut self) {
        let gone: Vec<(String, u64)> = self
            .chain
            .receipts
            .iter()
            .filter_map(|(id, it)| match it.at {
                Where::Gone { by } => Some((id.clone(), by)),
                _ => None,
            })
            .collect();
        let Some((id, by)) = self.random.pick(&gone).cloned() else {
            return;
        };
        let (rival, back) = (outpoint(by).to_string(), self.chain.receipts.get(&id));
        let number = back.map_or(0, |it| it.number);
        match self.chain.receipts.get(&rival).map(|it| it.at) {
            Some(Where::Block { .. }) => return,
            Some(_) => self.chain.put(&rival, Where::Gone { by: number }),
            None => {}
        }
        self.ground.struck(Fault::ChainReturned);
        self.chain.put(&id, Where::Mempool);
    }

    /// The host tells the engine what it does not know yet.
    pub(super) fn tell_chain(&mut self, most: usize) {
        let Some(process) = self.process.clone() else {
            return;
        };
        let chain = &self.chain;
        let untold = chain.receipts.iter();
        let mut untold: Vec<String> = untold
            .filter(|(id, it)| !it.is_current(&chain.blocks) && !chain.is_being_told(id))
            .map(|(id, _)| id.clone())
            .collect();
        for _ in 0..most.min(untold.len()) {
            let id = untold.swap_remove(self.random.below(untold.len()));
            let twice = self.ground.strikes(Fault::FactTwice, 200);
            let Some(receipt) = self.chain.receipts.get_mut(&id) else {
                continue;
            };
            let place = receipt.place(&self.chain.blocks);
            receipt.telling = Some(place);
            receipt.is_sure = false;
            self.ground.trace("told", receipt.number);
            let (address, fact) = (receipt.address.clone(), receipt.fact(place));
            let mut calls = Vec::new();
            for _ in 0..=usize::from(twice) {
                let slot = Slot::default();
                calls.push(Arc::clone(&slot));
                let (address, fact) = (address.clone(), fact.clone());
                let (engine, issuer) = (process.engine.clone(), process.issuer.clone());
                self.ground.executor.spawn(Box::pin(async move {
                    let invoices = engine.invoices();
                    let told = invoices.observe_on_chain(&issuer, &address, &fact).await;
                    put_in(&slot, told);
                }));
            }
            self.chain.telling.push(Telling { id, calls });
        }
    }

    /// What was answered is known for sure; what was not is told again, as it is then.
    pub(super) fn take_chain_answers(&mut self) {
        let Chain {
            telling,
            receipts,
            refused,
            ..
        } = &mut self.chain;
        telling.retain_mut(|telling| {
            telling.calls.retain(|slot| match taken(slot) {
                None => true,
                Some(Err(error)) => {
                    *refused = Some(format!("{} ({error})", error.code()));
                    false
                }
                Some(Ok(_)) => {
                    if let Some(receipt) = receipts.get_mut(&telling.id) {
                        receipt.told = receipt.telling;
                        receipt.is_sure = true;
                    }
                    false
                }
            });
            !telling.calls.is_empty()
        });
    }
}
