//! Emptying the node: the command, and who reads how far it is.

use serde::{Deserialize, Serialize};

use super::drain_model::{DrainNode, DrainState, NodeDrain};
use super::{ADDRESSES, WalletError, Wallets, descriptor, drain_rules};
use crate::Error;
use crate::access::Credential;
use crate::chain::DRAIN_JOB;
use crate::core::{Answer, Caller, CommandError, Decision, Executed, Loaded, draining, emit, put};
use crate::ids::{DrainId, TransferId};
use crate::ledger::{Account, DueJob, NewHold, NewTransfer, Step, TransferKind};
use crate::lightning::{NodeBalances, OpenChannel};
use crate::wallets::WalletAddress;

pub(super) const DRAINS: &str = "node_drain";
/// What somebody may mean for the node's own wallet.
const FEES: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;

/// A drain, with what only its own work needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    #[serde(flatten)]
    pub(super) drain: NodeDrain,
    /// What had left the node's wallet before.
    pub(super) earlier: Vec<String>,
    /// What the node's wallet had when it was begun, and what was on its way there.
    pub(super) had_msat: i64,
    /// What leaves the channels, on hold.
    pub(super) out_of_channels: Option<Held>,
    /// What leaves the books, on hold.
    pub(super) out_of_books: Option<Held>,
    /// How often in a row nothing was left.
    pub(super) quiet_rounds: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) hold: TransferId,
    pub(super) amount_msat: i64,
}

impl Wallets {
    /// Takes all that the node's keys hold to one address: closes the node's channels, and sends
    /// what comes out of them, what is in the node's own wallet, and what is in the operator's
    /// wallets of the node's seed, as it can be sent. It is written down first and carried to its end by
    /// jobs, whatever happens in between; [`drain`](Self::drain) says how far it is, and the events
    /// `node.drain_started`, `node.drain_changed` and `node.drain_done` do. Issuer only, where the
    /// node runs.
    ///
    /// What leaves is on hold in the books until it is booked in the end, what it cost apart.
    /// The node's own wallet is last: what gets a channel into a block that is closed alone is paid
    /// for out of it. Asked again while one goes on, with the same address, it answers that one, and
    /// may add [`force`](DrainNode::force) and another fee; [`end_drain`](Self::end_drain) ends it
    /// as it stands. While it goes on, rails over Lightning that cannot be made say
    /// `lightning.draining`. An address of a watched wallet of the operator's may be given: what
    /// arrives there matches nothing, and waits in suspense to be assigned to the operator.
    ///
    /// An address of the node's own wallet, which is in no books, is known when what was sent comes
    /// back: then nothing more is sent, and [`NodeDrain::refusal`] says `wallet.own_address`.
    ///
    /// What is owed is looked at when it is begun; who takes it while it goes on is not stopped.
    ///
    /// # Errors
    /// `wallet.owed`, `wallet.books_differ`, `wallet.draining`, `wallet.own_address`,
    /// `wallet.bad_address`, `wallet.wrong_network`, `lightning.unsupported`,
    /// `lightning.not_running`, `lightning.no_node`, `command.*`, `access.*`.
    pub async fn drain_node(
        &self,
        credential: &Credential,
        command: DrainNode,
    ) -> Result<Answer<NodeDrain>, Error> {
        let (wallets, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = wallets.core.authenticate(&credential).await?;
                caller.require_issuer()?;
                if command
                    .fee_sat_per_kvb
                    .is_some_and(|fee| !FEES.contains(&fee))
                {
                    let (field, bounds) = ("fee_sat_per_kvb", "1,000 to 1,000,000");
                    return Err(CommandError::OutOfBounds { field, bounds }.into());
                }
                let executed = wallets.begun(&caller, &command).await?;
                if !executed.replayed {
                    // It is kept: what goes wrong now is tried again by its job.
                    drop(wallets.go_on_draining(executed.answer.id).await);
                }
                Ok(executed.answer)
            })
            .await
    }

    async fn begun(
        &self,
        caller: &Caller,
        command: &DrainNode,
    ) -> Result<Executed<NodeDrain>, Error> {
        let decide = || self.decide_drain(command);
        let name = "wallets.drain_node";
        self.core
            .execute_new(caller, name, &command.key, command, decide)
            .await
    }

    async fn decide_drain(&self, command: &DrainNode) -> Result<Decision<NodeDrain>, Error> {
        self.check_target(&command.address).await?;
        let running = self.core.draining().await?;
        if let Some(id) = running.value {
            return self.joined(self.load_drain(id).await?, command);
        }
        let owed = drain_rules::owed(&self.core.store.balances(None, usize::MAX).await?);
        if !owed.is_empty() && !command.even_if_owed {
            return Err(WalletError::Owed { owed }.into());
        }
        let node = self.core.node()?;
        let channels = node.open_channels().await?;
        let wallet = node.onchain_wallet().await?;
        let has = node.balances().await?;
        for control in self.core.controls_now().await? {
            if !control.is_explained() {
                let (account, difference_msat) = (control.account, control.difference_msat);
                return Err(WalletError::BooksDiffer {
                    account,
                    difference_msat,
                }
                .into());
            }
        }
        let id = self.core.new_id(DrainId::from_parts)?;
        let begun = begun(id, command, &channels, has, self.core.clock.now_ms());
        let mut stored = Stored {
            drain: begun,
            earlier: wallet.sends.into_iter().map(|send| send.txid).collect(),
            had_msat: has.onchain_msat.saturating_add(has.closing_msat),
            out_of_channels: None,
            out_of_books: None,
            quiet_rounds: 0,
        };
        let mut steps = vec![draining(Some(id), running.version)?];
        steps.extend(self.held(&mut stored).await?);
        steps.push(write_drain(&stored, 0)?);
        steps.push(again(id, self.core.clock.now_ms()));
        steps.push(emit("node.drain_started", id.to_string(), &stored.drain)?);
        Ok(Decision {
            steps,
            answer: stored.drain,
        })
    }

    /// One that goes on is gone on with.
    fn joined(
        &self,
        found: Loaded<Stored>,
        command: &DrainNode,
    ) -> Result<Decision<NodeDrain>, Error> {
        let Loaded { version, value } = found;
        // One address has several spellings: bech32 may stand in capitals.
        let script = |address| descriptor::script_of(address, self.network()?);
        if script(&value.drain.address)? != script(&command.address)? {
            let drain = value.drain.id;
            return Err(WalletError::Draining { drain }.into());
        }
        let mut after = value;
        let mut steps = Vec::new();
        let drain = &mut after.drain;
        let has_force = command.force && !drain.force;
        let fee = command.fee_sat_per_kvb;
        let has_fee = fee.is_some() && fee != drain.fee_sat_per_kvb;
        if has_force || has_fee {
            let id = drain.id;
            drain.force |= command.force;
            drain.fee_sat_per_kvb = fee.or(drain.fee_sat_per_kvb);
            steps.push(write_drain(&after, version)?);
            steps.push(again(id, self.core.clock.now_ms()));
            steps.push(emit("node.drain_changed", id.to_string(), &after.drain)?);
        }
        Ok(Decision {
            steps,
            answer: after.drain,
        })
    }

    /// An address of the network's, and none of those that are to be emptied.
    async fn check_target(&self, address: &str) -> Result<(), Error> {
        let script = descriptor::script_of(address, self.network()?)?;
        let known: Option<Loaded<WalletAddress>> =
            self.core.load(ADDRESSES, &script.to_hex_string()).await?;
        if let Some(known) = known
            && self.load(known.value.wallet).await?.value.is_node
        {
            return Err(WalletError::OwnAddress.into());
        }
        Ok(())
    }

    /// The steps that have on hold what leaves the channels, and the books: what comes in until the
    /// channels are closed leaves as well.
    pub(super) async fn held(&self, stored: &mut Stored) -> Result<Vec<Step>, Error> {
        let channels = Account::node_channels();
        let in_channels_msat = self.in_channels_msat().await?;
        let all_msat = in_channels_msat.saturating_add(stored.had_msat);
        let (reference, mut steps) = (stored.drain.id.to_string(), Vec::new());
        let onchain = Account::node_onchain();
        let holds = [
            (
                &mut stored.out_of_channels,
                (onchain, channels),
                in_channels_msat,
                TransferKind::ChannelClosed,
            ),
            (
                &mut stored.out_of_books,
                (Account::operator_capital(), onchain),
                all_msat,
                TransferKind::Capital,
            ),
        ];
        for (held, (debit, credit), amount_msat, kind) in holds {
            if held.map_or(0, |held| held.amount_msat) == amount_msat {
                continue;
            }
            steps.extend(held.map(|held| Step::Release { hold: held.hold }));
            *held = None;
            if amount_msat > 0 {
                let hold = self.core.new_id(TransferId::from_parts)?;
                *held = Some(Held { hold, amount_msat });
                steps.push(Step::Hold(NewHold {
                    transfer: NewTransfer {
                        id: hold,
                        debit,
                        credit,
                        amount: amount_msat,
                        kind,
                        reference: reference.clone(),
                        credit_ceiling: None,
                    },
                    // Only what becomes of it can end it.
                    expires_at_ms: None,
                    usage: Vec::new(),
                }));
            }
        }
        Ok(steps)
    }

    /// A drain: how far it is, what it waits for, and what it has sent. Issuer only.
    ///
    /// # Errors
    /// `wallet.drain_not_found`, `access.*`.
    pub async fn drain(
        &self,
        credential: &Credential,
        drain: DrainId,
    ) -> Result<Answer<NodeDrain>, Error> {
        self.core.authenticate(credential).await?.require_issuer()?;
        let as_of_ms = self.core.clock.now_ms();
        let value = self.load_drain(drain).await?.value.drain;
        Ok(Answer { as_of_ms, value })
    }

    /// All drains, oldest first, after the drain `after`; at most `limit` (1 to 1,000). Issuer only.
    ///
    /// # Errors
    /// `access.*`.
    pub async fn drains(
        &self,
        credential: &Credential,
        after: Option<DrainId>,
        limit: usize,
    ) -> Result<Answer<Vec<NodeDrain>>, Error> {
        self.core.authenticate(credential).await?.require_issuer()?;
        let as_of_ms = self.core.clock.now_ms();
        let after = after.map(|id| id.to_string());
        let found = self.core.list(DRAINS, "all", "all", after, limit).await?;
        let value = found.into_iter().map(|found: Stored| found.drain).collect();
        Ok(Answer { as_of_ms, value })
    }

    pub(super) async fn load_drain(&self, drain: DrainId) -> Result<Loaded<Stored>, Error> {
        let found = self.core.load(DRAINS, &drain.to_string()).await?;
        Ok(found.ok_or(WalletError::DrainNotFound { drain })?)
    }
}

fn begun(
    id: DrainId,
    command: &DrainNode,
    channels: &[OpenChannel],
    has: NodeBalances,
    now_ms: i64,
) -> NodeDrain {
    let open = channels.iter().cloned();
    let open: Vec<_> = open
        .map(|open| (open, drain_rules::Asked::Nothing))
        .collect();
    NodeDrain {
        id,
        state: DrainState::Closing,
        waits_for: Vec::new(),
        address: command.address.clone(),
        fee_sat_per_kvb: command.fee_sat_per_kvb,
        force: command.force,
        channels_msat: has.channels_msat,
        closing_msat: has.closing_msat,
        onchain_msat: has.onchain_msat,
        channels: drain_rules::channels(&[], &open, now_ms),
        sends: Vec::new(),
        spends: Vec::new(),
        frozen: Vec::new(),
        refusal: None,
        closing_fees_msat: None,
        is_ended: false,
        started_at_ms: now_ms,
        done_at_ms: None,
    }
}

pub(super) fn write_drain(stored: &Stored, read_version: i64) -> Result<Step, Error> {
    let keys = vec![("all", "all".to_owned())];
    put(
        DRAINS,
        stored.drain.id.to_string(),
        read_version,
        stored,
        keys,
    )
}

/// The step that has a drain gone on with.
pub(super) fn again(id: DrainId, due_at_ms: i64) -> Step {
    Step::Due(DueJob {
        kind: DRAIN_JOB.to_owned(),
        object: id.to_string(),
        due_at_ms,
    })
}
