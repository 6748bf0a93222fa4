//! Clerks: whoever uses the store's batches without the engine.

use std::sync::Arc;

use super::commands::{Slot, put_in};
use super::model::{Asked, ClerkStep, Move, Window, Wrong};
use super::tally::Fault;
use super::world::{ClerkCall, World};
use crate::ids::{BatchId, CardId, TransferId};
use crate::ledger::{
    Account, Batch, NewEvent, NewHold, NewReversal, NewTransfer, Shortfall, Step, TransferKind,
    UsageWindow,
};
use crate::ports::{Clock, Executor};
use crate::store::Store;

const HOUR_MS: i64 = 3_600_000;
/// The most that an hour may use.
const LIMIT: i64 = 60_000;

fn account(number: usize) -> Account {
    let number = u8::try_from(number % 3).unwrap_or(0);
    Account::card_balance(CardId::from_parts(1, [number; 10]))
}

impl World {
    fn random_bytes(&mut self) -> [u8; 10] {
        let mut bytes = [0; 10];
        for byte in &mut bytes {
            *byte = self.random.next().to_le_bytes()[0];
        }
        bytes
    }

    fn transfer_id(&mut self) -> TransferId {
        TransferId::from_parts(1, self.random_bytes())
    }

    /// Between two accounts of the clerks, or into them; sometimes more than there is.
    fn any_move(&mut self) -> Move {
        let (from, to) = (self.random.below(3), self.random.below(2));
        let credit = account(from + 1 + to);
        let debit = if self.random.chance(350) {
            Account::operator_capital()
        } else {
            account(from)
        };
        Move {
            id: self.transfer_id(),
            debit,
            credit,
            amount: self.random.between(1_000, 30_000),
        }
    }

    fn window(&self) -> Window {
        let at_ms = self.ground.now_ms().max(self.model.last_ms);
        let start_ms = at_ms.div_euclid(HOUR_MS) * HOUR_MS;
        Window {
            start_ms,
            end_ms: start_ms + HOUR_MS,
        }
    }

    /// A batch by chance.
    pub(super) fn clerk(&mut self) -> Result<(), Wrong> {
        let steps = self.clerk_steps();
        if steps.is_empty() {
            return Ok(());
        }
        let name = self.name();
        let done = Step::Emit(NewEvent {
            kind: "clerk.done",
            object: name.clone(),
            body: serde_json::Value::Null.into(),
        });
        let all = steps.iter().map(|step| as_step(step, &name)).chain([done]);
        let batch = Batch {
            id: BatchId::from_parts(1, self.random_bytes()),
            command: None,
            steps: Arc::new(all.collect()),
        };
        self.model.ask(&name, Asked::Clerk(steps));
        self.clerks.push(ClerkCall {
            name,
            batch,
            slot: Slot::default(),
            is_sent: false,
            was_doubled: false,
        });
        self.send_clerks();
        Ok(())
    }

    fn clerk_steps(&mut self) -> Vec<ClerkStep> {
        let window = self.window();
        let holds: Vec<_> = self.model.clerk.holds.iter().collect();
        let hold = self.random.pick(&holds).map(|(id, hold)| (**id, hold.left));
        let transfers: Vec<_> = self.model.clerk.transfers.iter().rev().take(12).collect();
        let transfer = self
            .random
            .pick(&transfers)
            .map(|(id, transfer)| (**id, transfer.standing));
        match self.random.below(20) {
            0..4 => vec![ClerkStep::Move(self.any_move())],
            4..6 => {
                let moved = self.any_move();
                vec![ClerkStep::MoveUpTo(Move {
                    amount: moved.amount * 3,
                    ..moved
                })]
            }
            6..8 => vec![
                ClerkStep::Move(self.any_move()),
                ClerkStep::Move(self.any_move()),
                ClerkStep::Claim(self.random.between(0, 400)),
            ],
            8..11 => self.new_hold(window),
            11..14 => match hold {
                Some((hold, left)) => vec![self.capture(hold, left)],
                None => Vec::new(),
            },
            14 => match hold {
                Some((hold, _)) => vec![ClerkStep::Release { hold }],
                None => Vec::new(),
            },
            15..17 => match transfer {
                Some((of, standing)) => vec![self.undo(of, standing, window)],
                None => Vec::new(),
            },
            17 => {
                let to = self.model.clerk.counter.unwrap_or(0) + self.random.between(-1, 2);
                vec![ClerkStep::Advance(to), ClerkStep::Move(self.any_move())]
            }
            18 => vec![ClerkStep::Use {
                window,
                amount: self.random.between(1_000, 30_000),
                limit: LIMIT,
            }],
            _ => vec![ClerkStep::GiveBack {
                window,
                amount: self.random.between(500, 4_000),
            }],
        }
    }

    fn new_hold(&mut self, window: Window) -> Vec<ClerkStep> {
        let of = self.any_move();
        let lasts_ms = self.random.between(500, 20_000);
        let ends = self.random.chance(700);
        let ends_ms = ends.then(|| self.ground.now_ms().saturating_add(lasts_ms));
        let counted = self.random.chance(600).then_some(window);
        let used = counted.map(|window| ClerkStep::Use {
            window,
            amount: of.amount,
            limit: LIMIT,
        });
        let hold = ClerkStep::Hold {
            of,
            ends_ms,
            counted,
        };
        used.into_iter().chain([hold]).collect()
    }

    fn capture(&mut self, hold: TransferId, left: i64) -> ClerkStep {
        let all = self.random.chance(400);
        let amount = if all {
            left
        } else {
            self.random.between(1, left + left / 10)
        };
        ClerkStep::Capture {
            hold,
            id: self.transfer_id(),
            amount,
            release_rest: self.random.chance(500),
        }
    }

    fn undo(&mut self, of: TransferId, standing: i64, window: Window) -> ClerkStep {
        let all = self.random.chance(500);
        let amount = if all {
            standing.max(1)
        } else {
            self.random.between(1, standing.max(1) + 500)
        };
        let who = u8::try_from(self.random.below(3)).unwrap_or(0);
        let receivable = Account::card_receivable(CardId::from_parts(1, [who; 10]));
        let owing = self.random.chance(600);
        ClerkStep::Undo {
            id: self.transfer_id(),
            of,
            amount,
            counted: self.random.chance(150).then_some(window),
            owing: owing.then(|| (self.transfer_id(), receivable)),
        }
    }

    /// Sends what was not answered yet; now and then what is on its way, too.
    pub(super) fn send_clerks(&mut self) {
        let Some(process) = self.process.clone() else {
            return;
        };
        for at in 0..self.clerks.len() {
            let again = self.clerks[at].is_sent;
            if again && !self.random.chance(30) {
                continue;
            }
            let clerk = &mut self.clerks[at];
            if again {
                self.ground.struck(Fault::BatchAgain);
                clerk.was_doubled = true;
            }
            clerk.is_sent = true;
            clerk.slot = Slot::default();
            let (store, batch, slot) = (
                process.store.clone(),
                clerk.batch.clone(),
                clerk.slot.clone(),
            );
            self.ground.executor.spawn(Box::pin(async move {
                put_in(&slot, store.commit(batch).await);
            }));
        }
    }
}

fn transfer(moved: &Move, name: &str) -> NewTransfer {
    NewTransfer {
        id: moved.id,
        debit: moved.debit,
        credit: moved.credit,
        amount: moved.amount,
        kind: TransferKind::Assigned,
        reference: name.to_owned(),
        credit_ceiling: None,
    }
}

fn usage(window: Window) -> UsageWindow {
    UsageWindow {
        subject: "clerk/usage".to_owned(),
        start_ms: window.start_ms,
        end_ms: window.end_ms,
    }
}

fn as_step(step: &ClerkStep, name: &str) -> Step {
    match *step {
        ClerkStep::Move(moved) => Step::Transfer(transfer(&moved, name)),
        ClerkStep::MoveUpTo(moved) => Step::TransferUpTo(transfer(&moved, name)),
        ClerkStep::Hold {
            of,
            ends_ms,
            counted,
        } => Step::Hold(NewHold {
            transfer: transfer(&of, name),
            expires_at_ms: ends_ms,
            usage: counted.map(usage).into_iter().collect(),
        }),
        ClerkStep::Capture {
            hold,
            id,
            amount,
            release_rest,
        } => Step::Capture {
            hold,
            id,
            amount,
            release_rest,
        },
        ClerkStep::Release { hold } => Step::Release { hold },
        ClerkStep::Undo {
            id,
            of,
            amount,
            counted,
            owing,
        } => Step::Reverse(NewReversal {
            id,
            of,
            amount,
            shortfall: owing.map(|(id, receivable)| Shortfall { id, receivable }),
            usage: counted.map(usage).into_iter().collect(),
        }),
        ClerkStep::Use {
            window,
            amount,
            limit,
        } => Step::Use {
            window: usage(window),
            amount,
            limit,
        },
        ClerkStep::GiveBack { window, amount } => Step::Unuse {
            window: usage(window),
            amount,
        },
        ClerkStep::Claim(name_number) => Step::Claim {
            name: format!("clerk/{name_number}"),
            by: name.to_owned(),
        },
        ClerkStep::Advance(to) => Step::Advance {
            counter: "clerk".to_owned(),
            to,
        },
    }
}
