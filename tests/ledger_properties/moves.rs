//! What may happen, as the strategy that proptest draws from.

use proptest::prelude::*;

use super::model::{ACCOUNTS, POINTS_FROM, RECEIVABLES};

/// One step, by the places of its accounts and holds.
#[derive(Debug, Clone)]
pub enum Move {
    Transfer {
        debit: usize,
        credit: usize,
        amount: i64,
        ceiling: Option<i64>,
        again: bool,
        up_to: bool,
    },
    Hold {
        debit: usize,
        credit: usize,
        amount: i64,
        ceiling: Option<i64>,
        lasts_ms: Option<i64>,
    },
    Capture {
        hold: usize,
        amount: i64,
        release_rest: bool,
    },
    Release {
        hold: usize,
    },
    Reverse {
        transfer: usize,
        amount: i64,
        receivable: Option<usize>,
    },
    Within {
        account: usize,
        lowest: Option<i64>,
        highest: Option<i64>,
    },
}

#[derive(Debug, Clone)]
pub enum Action {
    /// A batch, after the clock was moved by so much.
    Batch { clock_ms: i64, moves: Vec<Move> },
    /// The last batch once more, under its id.
    Resubmit,
    /// The store is closed and opened again, where it has a file.
    Reopen,
}

fn amount() -> impl Strategy<Value = i64> {
    prop_oneof![
        20 => 1_i64..40,
        6 => 40_i64..300,
        1 => -2_i64..1,
        1 => (i64::MAX - 50)..=i64::MAX,
    ]
}

fn pair() -> impl Strategy<Value = (usize, usize)> {
    let within = |from: usize, to: usize| {
        (from..to, 1..to - from).prop_map(move |(debit, further)| {
            let credit = from + (debit - from + further) % (to - from);
            (debit, credit)
        })
    };
    prop_oneof![
        // Money comes in from outside, and points are given.
        6 => (Just(0), 1_usize..POINTS_FROM),
        3 => (Just(POINTS_FROM), POINTS_FROM + 1..ACCOUNTS),
        8 => within(0, POINTS_FROM),
        4 => within(POINTS_FROM, ACCOUNTS),
        1 => (0..ACCOUNTS, 0..ACCOUNTS),
    ]
}

fn one_move() -> impl Strategy<Value = Move> {
    let ceiling = || prop_oneof![4 => Just(None), 1 => (0_i64..300).prop_map(Some)];
    let lasts = prop_oneof![2 => Just(None), 1 => (0_i64..200).prop_map(Some)];
    // Mostly none, or a true receivable.
    let receivable = prop_oneof![
        3 => Just(None),
        3 => (0_usize..2).prop_map(|number| Some(RECEIVABLES[number])),
        1 => (0..ACCOUNTS).prop_map(Some),
    ];
    let bound = || prop_oneof![1 => Just(None), 2 => (-200_i64..300).prop_map(Some)];
    prop_oneof![
        5 => (pair(), amount(), ceiling(), prop::bool::weighted(0.15), prop::bool::weighted(0.2))
            .prop_map(|((debit, credit), amount, ceiling, again, up_to)| Move::Transfer {
                debit, credit, amount, ceiling, again, up_to,
            }),
        4 => (pair(), amount(), ceiling(), lasts).prop_map(
            |((debit, credit), amount, ceiling, lasts_ms)| Move::Hold {
                debit, credit, amount, ceiling, lasts_ms,
            }
        ),
        4 => (0_usize..8, amount(), any::<bool>()).prop_map(
            |(hold, amount, release_rest)| Move::Capture { hold, amount, release_rest }
        ),
        2 => (0_usize..8).prop_map(|hold| Move::Release { hold }),
        3 => (0_usize..16, amount(), receivable).prop_map(
            |(transfer, amount, receivable)| Move::Reverse { transfer, amount, receivable }
        ),
        2 => (0..ACCOUNTS, bound(), bound()).prop_map(
            |(account, lowest, highest)| Move::Within { account, lowest, highest }
        ),
    ]
}

pub fn actions() -> impl Strategy<Value = Vec<Action>> {
    let moves = prop_oneof![
        2 => prop::collection::vec(one_move(), 1..2),
        1 => prop::collection::vec(one_move(), 2..4),
    ];
    let batch =
        (-30_i64..60, moves).prop_map(|(clock_ms, moves)| Action::Batch { clock_ms, moves });
    let action = prop_oneof![30 => batch, 2 => Just(Action::Resubmit), 1 => Just(Action::Reopen)];
    prop::collection::vec(action, 20..60)
}
