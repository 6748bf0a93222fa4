//! What happened to an output, told by the rules and by a world that knows it.

use std::collections::BTreeMap;

use flashkit::chain::bitcoin::hashes::Hash;
use flashkit::chain::bitcoin::{
    Amount, BlockHash, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness,
    absolute, transaction,
};
use flashkit::chain::{
    BlockId, Fact, KnownTransaction, Missed, SeenTransaction, Standing, View, confirmations, judge,
    standing,
};
use proptest::prelude::*;

/// A world of blocks that hold either of two transactions that spend the same coin, and a
/// mempool with at most one of them. It knows nothing of views and standings.
#[derive(Debug, Default)]
struct World {
    /// What each block has, and a number that makes its hash: none is ever the same again.
    blocks: Vec<(Option<Name>, u32)>,
    waiting: Option<Name>,
    made: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Payment,
    Rival,
}

#[derive(Debug, Clone, Copy)]
enum Move {
    Send(Name),
    Evict,
    Mine,
    MineEmpty,
    MineUnseen(Name),
    Undo(usize),
}

impl World {
    fn confirmed(&self) -> Option<Name> {
        self.blocks.iter().find_map(|(name, _)| *name)
    }

    fn block(&mut self, name: Option<Name>) {
        self.made += 1;
        self.blocks.push((name, self.made));
    }

    fn go(&mut self, step: Move) {
        match step {
            Move::Send(name) if self.confirmed().is_none() => self.waiting = Some(name),
            Move::Send(_) => {}
            Move::Evict => self.waiting = None,
            Move::Mine => {
                let name = self.waiting.take();
                self.block(name);
            }
            Move::MineEmpty => self.block(None),
            Move::MineUnseen(name) if self.confirmed().is_none() => {
                self.waiting = None;
                self.block(Some(name));
            }
            Move::MineUnseen(_) => {}
            Move::Undo(depth) => {
                let kept = self.blocks.len() - depth.min(self.blocks.len());
                let undone = self.blocks.split_off(kept);
                if let Some(name) = undone.iter().find_map(|(name, _)| *name) {
                    self.waiting = Some(name);
                }
                for _ in 0..=depth {
                    self.block(None);
                }
            }
        }
    }

    fn place(&self, wanted: Name) -> Option<(u32, u32)> {
        let at = self
            .blocks
            .iter()
            .position(|(name, _)| *name == Some(wanted))?;
        Some((u32::try_from(at).unwrap(), self.blocks[at].1))
    }

    fn id(&self, at: usize) -> BlockId {
        let mut bytes = [0; 32];
        if at > 0 {
            bytes[..4].copy_from_slice(&self.blocks[at - 1].1.to_le_bytes());
        }
        BlockId {
            height: u32::try_from(at).unwrap(),
            hash: BlockHash::from_byte_array(bytes),
        }
    }

    fn view(&self) -> View {
        let tip = self.id(self.blocks.len());
        let mut seen: Vec<SeenTransaction> = (1..=self.blocks.len())
            .filter_map(|at| {
                let name = self.blocks[at - 1].0?;
                Some(SeenTransaction {
                    transaction: transaction(name),
                    block: Some(self.id(at)),
                })
            })
            .collect();
        seen.extend(self.waiting.map(|name| SeenTransaction {
            transaction: transaction(name),
            block: None,
        }));
        View {
            tip,
            through: tip,
            standing: Vec::new(),
            seen,
            missed: Missed::default(),
        }
    }
}

fn coin() -> OutPoint {
    OutPoint::new(Txid::from_byte_array([5; 32]), 0)
}

fn transaction(name: Name) -> Transaction {
    let sats = if name == Name::Payment { 5_000 } else { 4_000 };
    Transaction {
        version: transaction::Version::TWO,
        lock_time: absolute::LockTime::ZERO,
        input: vec![TxIn {
            previous_output: coin(),
            script_sig: ScriptBuf::new(),
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            witness: Witness::new(),
        }],
        output: vec![TxOut {
            value: Amount::from_sat(sats),
            script_pubkey: ScriptBuf::new(),
        }],
    }
}

/// What an observer of the world would say, who remembers where the payment was.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Says {
    Seen,
    InBlock(u32),
    OutOfBlock(u32),
    Back,
    Replaced,
    DoubleSpent,
    Dropped,
}

fn simply(facts: &[Fact], numbers: &BTreeMap<BlockHash, u32>) -> Vec<Says> {
    let number = |block: &BlockId| numbers[&block.hash];
    facts
        .iter()
        .map(|fact| match fact {
            Fact::Seen => Says::Seen,
            Fact::Confirmed { block } => Says::InBlock(number(block)),
            Fact::ReorgedOut { block } => Says::OutOfBlock(number(block)),
            Fact::Returned => Says::Back,
            Fact::Replaced { by } => {
                assert!(by.block.is_none() && by.id() == Some(rival_id()));
                Says::Replaced
            }
            Fact::DoubleSpent { by } => {
                assert!(by.block.is_some() && by.id() == Some(rival_id()));
                Says::DoubleSpent
            }
            Fact::Dropped => Says::Dropped,
        })
        .collect()
}

fn rival_id() -> Txid {
    transaction(Name::Rival).compute_txid()
}

/// Where the world has the payment: `None` nowhere, with what is in its place.
type Place = (Option<Option<u32>>, Option<Says>);

fn place(world: &World) -> Place {
    match (world.place(Name::Payment), world.place(Name::Rival)) {
        (Some((_, number)), _) => (Some(Some(number)), None),
        (None, Some((_, number))) => {
            let _ = number;
            (None, Some(Says::DoubleSpent))
        }
        (None, None) => match world.waiting {
            Some(Name::Payment) => (Some(None), None),
            Some(Name::Rival) => (None, Some(Says::Replaced)),
            None => (None, Some(Says::Dropped)),
        },
    }
}

fn expected(before: Option<&(Place, Option<u32>)>, now: &(Place, Option<u32>)) -> Vec<Says> {
    let mut says = Vec::new();
    if before == Some(now) {
        return says;
    }
    match before.map(|(place, _)| &place.0) {
        None => says.push(Says::Seen),
        Some(Some(Some(number))) => says.push(Says::OutOfBlock(*number)),
        Some(None) if now.0.0.is_some() => says.push(Says::Back),
        Some(_) => {}
    }
    match &now.0 {
        (Some(Some(number)), _) => says.push(Says::InBlock(*number)),
        (Some(None), _) => {}
        (None, instead) => says.extend(instead.clone()),
    }
    says
}

fn moves() -> impl Strategy<Value = Vec<(Move, bool)>> {
    let one = prop_oneof![
        3 => Just(Move::Send(Name::Payment)),
        2 => Just(Move::Send(Name::Rival)),
        1 => Just(Move::Evict),
        3 => Just(Move::Mine),
        1 => Just(Move::MineEmpty),
        1 => Just(Move::MineUnseen(Name::Payment)),
        1 => Just(Move::MineUnseen(Name::Rival)),
        2 => (1..4_usize).prop_map(Move::Undo),
    ];
    // The watcher may be down for some of it.
    prop::collection::vec((one, any::<bool>()), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_chain_does_the_rules_tell_what_happened(moves in moves()) {
        let mut world = World::default();
        let payment = transaction(Name::Payment);
        let mut known = KnownTransaction {
            txid: payment.compute_txid(),
            inputs: vec![coin()],
            block: None,
        };
        let (mut before, mut told): (Option<Standing>, Option<(Place, Option<u32>)>) = (None, None);
        let mut numbers = BTreeMap::new();
        for (step, is_watched) in moves {
            world.go(step);
            for at in 1..=world.blocks.len() {
                numbers.insert(world.id(at).hash, world.blocks[at - 1].1);
            }
            if !is_watched {
                continue;
            }
            let now_at = place(&world);
            // An output is known from the first time that it was there.
            if before.is_none() && now_at.0.is_none() {
                continue;
            }
            let rival_block = world.place(Name::Rival).map(|(_, number)| number);
            let now_told = (now_at, rival_block);
            let view = world.view();
            let now = standing(&known, &view).unwrap();
            let facts = judge(before.as_ref(), &now);
            prop_assert_eq!(simply(&facts, &numbers), expected(told.as_ref(), &now_told));
            let depth = world.place(Name::Payment).map(|(at, _)| {
                u32::try_from(world.blocks.len()).unwrap() - at
            });
            let counted = confirmations(&now, view.tip);
            prop_assert_eq!(counted, depth.or((world.waiting == Some(Name::Payment)).then_some(0)));
            // Told again, nothing happened.
            prop_assert_eq!(judge(Some(&now), &standing(&known, &view).unwrap()), vec![]);
            known.block = match &now {
                Standing::Confirmed { block } => Some(*block),
                _ => None,
            };
            (before, told) = (Some(now), Some(now_told));
        }
    }
}
