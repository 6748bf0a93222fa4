//! Batches of every kind of step, many of which are refused, the same for the same seed.

use flashkit::ids::{BatchId, CardId, MerchantId, TransferId};
use flashkit::ledger::{
    Account, Batch, CommandRecord, DueJob, NewDocument, NewEvent, NewHold, NewReversal,
    NewTransfer, Shortfall, Step, TransferKind, UsageWindow,
};

pub struct Steps {
    seed: u64,
    ids: u64,
    pub now_ms: i64,
    /// Transfers and holds that were asked for, whether or not they were made.
    asked: Vec<TransferId>,
}

fn random_part(number: u64) -> [u8; 10] {
    let mut random = [7; 10];
    random[2..].copy_from_slice(&number.to_be_bytes());
    random
}

impl Steps {
    pub fn new(seed: u64, now_ms: i64) -> Self {
        Self {
            seed,
            ids: 0,
            now_ms,
            asked: Vec::new(),
        }
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        // Knuth's MMIX generator: its upper bits are random enough here.
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % limit
    }

    fn amount(&mut self) -> i64 {
        i64::try_from(self.below(60)).unwrap()
    }

    fn id(&mut self) -> TransferId {
        self.ids += 1;
        let id = TransferId::from_parts(1, random_part(self.ids));
        self.asked.push(id);
        id
    }

    /// One that was asked for before, more often a late one.
    fn earlier(&mut self) -> TransferId {
        let asked = u64::try_from(self.asked.len()).unwrap();
        if asked == 0 {
            return self.id();
        }
        let back = self.below(asked.min(40));
        self.asked[usize::try_from(asked - 1 - back).unwrap()]
    }

    fn account(&mut self) -> Account {
        match self.below(9) {
            number @ 0..4 => Account::card_balance(CardId::from_parts(1, random_part(number))),
            number @ 4..7 => {
                Account::merchant_payable(MerchantId::from_parts(1, random_part(number)))
            }
            7 => Account::node_channels(),
            _ => Account::suspense(),
        }
    }

    fn transfer(&mut self) -> NewTransfer {
        let funds = self.below(3) == 0;
        NewTransfer {
            id: self.id(),
            debit: if funds {
                Account::node_channels()
            } else {
                self.account()
            },
            credit: self.account(),
            amount: self.amount(),
            kind: TransferKind::Charge,
            reference: format!("step {}", self.ids),
            credit_ceiling: (self.below(4) == 0).then_some(150),
        }
    }

    fn window(&mut self) -> UsageWindow {
        UsageWindow {
            subject: format!("subject {}", self.below(3)),
            start_ms: 0,
            end_ms: self.now_ms + 1_000_000,
        }
    }

    fn hold(&mut self) -> Step {
        let expires = self.below(2) == 0;
        let ends = i64::try_from(self.below(40)).unwrap() + self.now_ms;
        let usage = match self.below(2) {
            0 => vec![self.window()],
            _ => Vec::new(),
        };
        Step::Hold(NewHold {
            transfer: self.transfer(),
            expires_at_ms: expires.then_some(ends),
            usage,
        })
    }

    fn step(&mut self) -> Step {
        let name = format!("name {}", self.below(30));
        match self.below(16) {
            0..3 => Step::Transfer(self.transfer()),
            3 => Step::TransferUpTo(self.transfer()),
            4..6 => self.hold(),
            6 => Step::Capture {
                hold: self.earlier(),
                id: self.id(),
                amount: self.amount(),
                release_rest: self.below(2) == 0,
            },
            7 => Step::Release {
                hold: self.earlier(),
            },
            8 => Step::Reverse(NewReversal {
                id: self.id(),
                of: self.earlier(),
                amount: self.amount(),
                shortfall: (self.below(2) == 0).then(|| Shortfall {
                    id: self.id(),
                    receivable: Account::node_channels(),
                }),
                usage: Vec::new(),
            }),
            9 => Step::Put(NewDocument {
                collection: "thing",
                id: name,
                read_version: i64::try_from(self.below(3)).unwrap(),
                body: serde_json::json!({ "seed": self.seed }).into(),
                index_keys: vec![("colour", format!("{}", self.below(5)))],
            }),
            10 => Step::Claim {
                name: format!("claim {}", self.below(400)),
                by: name,
            },
            11 => Step::Advance {
                counter: name,
                to: i64::try_from(self.below(1_000)).unwrap(),
            },
            12 => Step::Use {
                window: self.window(),
                amount: self.amount(),
                limit: 900,
            },
            13 => Step::Unuse {
                window: self.window(),
                amount: self.amount(),
            },
            14 => Step::Emit(NewEvent {
                kind: "test.happened",
                object: name,
                body: serde_json::json!([null, i64::MAX, "é\u{0}\u{1f600}"]).into(),
            }),
            _ => Step::Due(DueJob {
                kind: "test".into(),
                object: name,
                due_at_ms: self.now_ms,
            }),
        }
    }

    pub fn batch(&mut self) -> Batch {
        self.ids += 1;
        let id = BatchId::from_parts(1, random_part(self.ids));
        let command = (self.below(3) == 0).then(|| CommandRecord {
            scope: match self.below(60) {
                number if number % 2 == 0 => format!("till/cards.charge/{number}"),
                number => format!("scope {number}"),
            },
            fingerprint: format!("request {}", self.below(2)),
            answer: serde_json::json!({ "answer": self.seed }).into(),
        });
        let steps = 1 + self.below(4);
        let steps: Vec<_> = (0..steps).map(|_| self.step()).collect();
        Batch {
            id,
            command,
            steps: steps.into(),
        }
    }
}
