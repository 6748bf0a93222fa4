//! The books beside themselves and beside the world.

#[cfg(feature = "chain")]
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{JournalVerdict, Reports};
use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Core, Loaded, NodeStatus, emit, put};
use crate::ledger::{Account, Balance, JournalProblem};
use crate::lightning::{LightningError, NodeBalances};

/// A control account beside what it mirrors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// The control account.
    pub account: Account,
    /// What the books say.
    pub booked_msat: i64,
    /// What is on hold and would raise it.
    pub incoming_msat: i64,
    /// What is on hold and would lower it.
    pub outgoing_msat: i64,
    /// What the node says; on chain with what the operator's wallets have.
    pub actual_msat: i64,
    /// The node's figure less the books'. Between `-outgoing_msat` and `incoming_msat` it can be
    /// explained by what is on its way; else a person should look.
    pub difference_msat: i64,
    /// The first audit that saw a difference that nothing explains, of those that saw one without
    /// a break up to now; milliseconds since the epoch. `None` where all is explained.
    pub since_ms: Option<i64>,
}

impl Control {
    /// True when nothing but what is on its way can be the difference.
    pub fn is_explained(&self) -> bool {
        (-self.outgoing_msat..=self.incoming_msat).contains(&self.difference_msat)
    }
}

/// A control account that could not be compared: what it mirrors could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Untied {
    /// The control account.
    pub account: Account,
    /// What the books say.
    pub booked_msat: i64,
    /// What is on hold and would raise it.
    pub incoming_msat: i64,
    /// What is on hold and would lower it.
    pub outgoing_msat: i64,
    /// What of the real figure is known all the same: on chain what the operator's wallets have, in
    /// blocks and waiting.
    pub known_msat: i64,
    /// Why, as a stable code: `lightning.no_node`; `lightning.held_elsewhere` where another
    /// instance has the node, which can tie it; `lightning.stale_state` where it is locked;
    /// `report.unsettled` where money moved all the while; or what the node refused with.
    pub code: String,
    /// The first audit that saw a difference which no audit has seen gone; milliseconds since the
    /// epoch.
    pub since_ms: Option<i64>,
}

/// An account whose totals are not the sum of what moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BooksDifference {
    /// The account.
    pub account: Account,
    /// What stands in the store.
    pub stored: Balance,
    /// What its transfers and holds come to.
    pub computed: Balance,
    /// The time of the first transfer that is not the sum of those before it, or else the first
    /// audit that saw the difference; milliseconds since the epoch.
    pub since_ms: i64,
}

/// The books beside themselves and beside the world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Debits equal credits for every asset.
    pub is_balanced: bool,
    /// The control accounts that could be compared with what they mirror.
    pub controls: Vec<Control>,
    /// Those that could not: of them nothing is shown to be right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub untied: Vec<Untied>,
    /// Accounts that are not the sum of what moved: none in honest books.
    pub differences: Vec<BooksDifference>,
    /// Accounts of which it is not known: money moved on them whenever they were looked at
    /// ([`JournalVerdict::unsettled`]). The next audit looks at them again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsettled: Vec<Account>,
}

/// A difference that an audit has seen.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Seen {
    account: Account,
    since_ms: i64,
    /// When it was gone again.
    gone_ms: Option<i64>,
}

const SEEN: &str = "audit_difference";
/// How often the node is asked again while money moves through it.
const MAX_LOOKS: usize = 50;
const UNSETTLED: &str = "report.unsettled";

/// What the world has beside the control accounts, with nothing booked in between.
struct Moment {
    /// The code of what it refused with.
    node: Result<NodeBalances, &'static str>,
    /// In blocks, and waiting.
    in_wallets: (i64, i64),
    accounts: [(Account, Balance); 2],
}

impl Reports {
    /// Recomputes every balance from the transfers and holds that made it, and compares the
    /// control accounts with the node. Issuer only.
    ///
    /// It reads the whole journal, while everything else goes on. What differs is remembered, so
    /// that the next audit tells how old it is, with the events `audit.difference_found` and
    /// `audit.difference_gone`. Where the node is not here, or does not answer, the control accounts
    /// are [`untied`](Audit::untied), and all else is audited.
    ///
    /// # Errors
    /// `access.*`, `store.*`.
    pub async fn audit(&self, credential: &Credential) -> Result<Answer<Audit>, Error> {
        let books = self.trial_balance(credential).await?;
        let now_ms = books.as_of_ms;
        let (controls, untied) = self.controls(now_ms).await?;
        let verdict = self.verify_journal(credential, &[]).await?;
        let differences = self.differences(&verdict, now_ms).await?;
        let value = Audit {
            is_balanced: books.is_balanced(),
            controls,
            untied,
            differences,
            unsettled: verdict.value.unsettled,
        };
        Ok(Answer {
            as_of_ms: now_ms,
            value,
        })
    }

    /// The control accounts beside the node, as far as it says what it has.
    async fn controls(&self, now_ms: i64) -> Result<(Vec<Control>, Vec<Untied>), Error> {
        let core = &self.core;
        let (mut controls, mut untied) = (Vec::new(), Vec::new());
        let moment = self.at_one_moment().await?;
        match moment.node {
            Ok(node) => {
                for mut control in tied(node, moment.in_wallets, moment.accounts) {
                    let (account, differs) = (control.account, !control.is_explained());
                    control.since_ms = core.remember("world", account, differs, now_ms).await?;
                    controls.push(control);
                }
            }
            Err(code) => {
                let (in_blocks_msat, waiting_msat) = moment.in_wallets;
                let known = [0, in_blocks_msat.saturating_add(waiting_msat)];
                for ((account, balance), known_msat) in moment.accounts.into_iter().zip(known) {
                    let since_ms = core.differs_since("world", account).await?;
                    let control = control(account, balance, known_msat);
                    untied.push(not_tied(control, code, since_ms));
                }
            }
        }
        Ok((controls, untied))
    }

    /// Asks the node between two looks at the accounts, until nothing was booked meanwhile: what
    /// has just arrived would be a difference that nothing explains.
    async fn at_one_moment(&self) -> Result<Moment, Error> {
        let core = &self.core;
        let mut before = self.control_accounts().await?;
        for _ in 0..MAX_LOOKS {
            let node = core.node_balances().await;
            #[cfg(feature = "chain")]
            let in_wallets = core.operator_coins_msat().await?;
            #[cfg(not(feature = "chain"))]
            let in_wallets = (0_i64, 0_i64);
            let accounts = self.control_accounts().await?;
            if accounts == before {
                let node = node.map_err(|error| error.code());
                return Ok(Moment {
                    node,
                    in_wallets,
                    accounts,
                });
            }
            before = accounts;
        }
        Ok(Moment {
            node: Err(UNSETTLED),
            in_wallets: (0, 0),
            accounts: before,
        })
    }

    async fn control_accounts(&self) -> Result<[(Account, Balance); 2], Error> {
        let store = &self.core.store;
        let [channels, onchain] = [Account::node_channels(), Account::node_onchain()];
        Ok([
            (channels, store.balance(&channels).await?),
            (onchain, store.balance(&onchain).await?),
        ])
    }

    async fn differences(
        &self,
        verdict: &JournalVerdict,
        now_ms: i64,
    ) -> Result<Vec<BooksDifference>, Error> {
        let mut found = Vec::new();
        for problem in &verdict.problems {
            if let JournalProblem::TotalsWrong {
                account,
                stored,
                computed,
            } = problem
            {
                let seen = self.core.remember("books", *account, true, now_ms).await?;
                let moved = self.first_wrong(verdict, account).await?;
                found.push(BooksDifference {
                    account: *account,
                    stored: *stored,
                    computed: *computed,
                    since_ms: moved.or(seen).unwrap_or(now_ms),
                });
            }
        }
        for open in self.core.open_differences("books").await? {
            // One that could not be compared is not gone.
            let is_settled = !verdict.unsettled.contains(&open);
            if is_settled && found.iter().all(|difference| difference.account != open) {
                self.core.remember("books", open, false, now_ms).await?;
            }
        }
        Ok(found)
    }

    /// When the first transfer was made that does not say what those before it come to.
    async fn first_wrong(
        &self,
        verdict: &JournalVerdict,
        wanted: &Account,
    ) -> Result<Option<i64>, Error> {
        let first = verdict.problems.iter().find_map(|problem| match problem {
            JournalProblem::BalanceAfterWrong { transfer, account } if account == wanted => {
                Some(*transfer)
            }
            _ => None,
        });
        let Some(id) = first else { return Ok(None) };
        let row = self.core.store.transfer(id).await?;
        Ok(row.map(|row| row.at_ms))
    }
}

impl Core {
    /// What the node has, if it is here to say so.
    async fn node_balances(&self) -> Result<NodeBalances, LightningError> {
        let remaining_ms = 0;
        if self.lightning.is_none() && self.lightning_elsewhere {
            return Err(LightningError::HeldElsewhere { remaining_ms });
        }
        let node = self.node()?;
        match self.node_status() {
            NodeStatus::Standby => Err(LightningError::HeldElsewhere { remaining_ms }),
            NodeStatus::Locked => Err(LightningError::StaleState {
                reason: "it is locked".to_owned(),
            }),
            NodeStatus::None | NodeStatus::Stopped | NodeStatus::Running => node.balances().await,
        }
    }

    /// The control accounts beside what they mirror now; whatever keeps that from being known is
    /// an error.
    #[cfg(feature = "chain")]
    pub(crate) async fn controls_now(self: &Arc<Self>) -> Result<Vec<Control>, Error> {
        let moment = Reports::new(self.clone()).at_one_moment().await?;
        let (in_blocks_msat, waiting_msat) = moment.in_wallets;
        let Ok(node) = moment.node else {
            // It says itself why.
            self.node_balances().await?;
            return Err(crate::core::CommandError::Contended.into());
        };
        Ok(tied(node, (in_blocks_msat, waiting_msat), moment.accounts).to_vec())
    }

    /// Since when a difference is there, as the audits before have seen it.
    async fn differs_since(
        &self,
        kind: &'static str,
        account: Account,
    ) -> Result<Option<i64>, Error> {
        let id = format!("{kind}/{account}");
        let seen: Option<Loaded<Seen>> = self.load(SEEN, &id).await?;
        let open = seen.filter(|seen| seen.value.gone_ms.is_none());
        Ok(open.map(|seen| seen.value.since_ms))
    }

    /// Writes down that a difference is there, or is gone; answers since when it is there.
    async fn remember(
        &self,
        kind: &'static str,
        account: Account,
        differs: bool,
        now_ms: i64,
    ) -> Result<Option<i64>, Error> {
        let id = format!("{kind}/{account}");
        self.settle(|| async {
            let before: Option<Loaded<Seen>> = self.load(SEEN, &id).await?;
            let version = before.as_ref().map_or(0, |seen| seen.version);
            let open = before.filter(|seen| seen.value.gone_ms.is_none());
            let (event, after) = match (open, differs) {
                (None, true) => (
                    "audit.difference_found",
                    Seen {
                        account,
                        since_ms: now_ms,
                        gone_ms: None,
                    },
                ),
                (Some(seen), false) => (
                    "audit.difference_gone",
                    Seen {
                        gone_ms: Some(now_ms),
                        ..seen.value
                    },
                ),
                _ => return Ok(None),
            };
            let keys = after.gone_ms.is_none().then(|| ("open", kind.to_owned()));
            let keys = keys.into_iter().collect();
            Ok(Some(vec![
                put(SEEN, id.clone(), version, &after, keys)?,
                emit(event, account.to_string(), &after)?,
            ]))
        })
        .await?;
        self.differs_since(kind, account).await
    }

    async fn open_differences(&self, kind: &'static str) -> Result<Vec<Account>, Error> {
        let (mut open, mut after) = (Vec::new(), None);
        loop {
            let page: Vec<(String, Result<Seen, Error>)> = self
                .list_each(SEEN, "open", kind, after, crate::store::MAX_PAGE)
                .await?;
            let Some((last, _)) = page.last() else {
                return Ok(open);
            };
            after = Some(last.clone());
            for (_, seen) in page {
                open.push(seen?.account);
            }
        }
    }
}

/// The control accounts beside a node, and what the operator's wallets have in blocks and waiting.
fn tied(
    node: NodeBalances,
    (in_blocks_msat, waiting_msat): (i64, i64),
    [(channels, in_channels), (onchain, on_chain)]: [(Account, Balance); 2],
) -> [Control; 2] {
    let actual_msat = node
        .onchain_msat
        .saturating_add(node.closing_msat)
        .saturating_add(in_blocks_msat)
        .saturating_add(waiting_msat);
    let mut onchain = control(onchain, on_chain, actual_msat);
    // What waits for a block is on hold at most.
    onchain.incoming_msat = onchain.incoming_msat.max(waiting_msat);
    [control(channels, in_channels, node.channels_msat), onchain]
}

fn control(account: Account, balance: Balance, actual_msat: i64) -> Control {
    let side = account.kind().side();
    let booked_msat = i64::try_from(balance.posted(side)).unwrap_or(i64::MAX);
    Control {
        account,
        booked_msat,
        incoming_msat: balance.debits_pending,
        outgoing_msat: balance.credits_pending,
        actual_msat,
        difference_msat: actual_msat.saturating_sub(booked_msat),
        since_ms: None,
    }
}

/// `control` has what is known without the node as what there is.
fn not_tied(control: Control, code: &str, since_ms: Option<i64>) -> Untied {
    Untied {
        account: control.account,
        booked_msat: control.booked_msat,
        incoming_msat: control.incoming_msat,
        outgoing_msat: control.outgoing_msat,
        known_msat: control.actual_msat,
        code: code.to_owned(),
        since_ms,
    }
}
