//! The way back: cards stop here, and are their former issuer's again.

use super::model::{ExportedCard, KeptCard, KeptReason, RollBack, RollBackReport};
use super::{CardImports, MAX_TRIES, PIECE, card_rules, load, went_back, write};
use crate::Error;
use crate::access::Credential;
use crate::cards::life::{BREAKAGE_JOB, LifeError, RetireTo, due, require_none};
use crate::cards::model::{Card, CardState};
use crate::cards::{CARDS, CardError, load as load_card, pin, programs};
use crate::core::{Answer, CommandError, Core, Decision, Executed, Loaded, emit};
use crate::ids::{CardId, CardImportId, TransferId};
use crate::ledger::{Account, NewTransfer, Refusal, Step, TransferKind};

impl CardImports {
    /// Gives cards of an import back to their former issuer, a page in one commit: no tap of them
    /// is taken here from then on, what is on them is off these books, and the answer is the rows
    /// for the former issuer. It lets a card pay only when it has its row. What still comes to such
    /// a card here, or is given back to it, is the former issuer's. Issuer only.
    ///
    /// What cannot go back is named and stays in use: a card with money on hold, one that money is on its
    /// way to, and one with a family. A card that went back can be taken over again by
    /// [`cut_over`](Self::cut_over), and is then its own successor: history, limits with what is used
    /// of them, PIN, recovery code and points go along, and so does that it was lost, frozen or
    /// expired. What fills it up when it runs low does not.
    ///
    /// # Errors
    /// `card.import_not_found`, `command.out_of_bounds`, `command.*`, `access.*`.
    pub async fn roll_back(
        &self,
        credential: &Credential,
        command: RollBack,
    ) -> Result<Answer<RollBackReport>, Error> {
        let (imports, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &imports.core;
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                check(&command)?;
                let operation = "card_imports.roll_back";
                let mut tries = 1;
                loop {
                    let decide = || imports.decide_roll_back(&command);
                    let done: Result<Executed<RollBackReport>, Error> = core
                        .execute(&caller, operation, &command.key, &command, decide)
                        .await;
                    match done {
                        // A tap or a top-up was quicker: what it has changed is seen now.
                        Err(Error::Ledger(refusal)) if is_race(&refusal) && tries < MAX_TRIES => {
                            tries += 1;
                        }
                        done => return Ok(done?.answer),
                    }
                }
            })
            .await
    }

    async fn decide_roll_back(
        &self,
        command: &RollBack,
    ) -> Result<Decision<RollBackReport>, Error> {
        let import = load(&self.core, command.import).await?;
        let (mut answer, mut steps) = (RollBackReport::default(), Vec::new());
        for id in self.page(command).await? {
            answer.last = Some(id);
            let reason = match self.of_import(command.import, id).await? {
                None => KeptReason::NotImported,
                Some(card) => match self.take_back(&card, &mut steps).await? {
                    Ok(row) => {
                        answer.returned_msat =
                            answer.returned_msat.saturating_add(row.balance_msat);
                        answer.returned.push(row);
                        continue;
                    }
                    Err(reason) => reason,
                },
            };
            answer.kept.push(KeptCard { card: id, reason });
        }
        let mut after = import.value;
        let returned = i64::try_from(answer.returned.len()).unwrap_or(i64::MAX);
        after.returned = after.returned.saturating_add(returned);
        after.returned_msat = after.returned_msat.saturating_add(answer.returned_msat);
        steps.insert(0, write(&after, import.version)?);
        let id = after.id.to_string();
        steps.push(emit("card_import.rolled_back", id, &after)?);
        Ok(Decision { steps, answer })
    }

    /// The cards of a page, in the order of their ids.
    async fn page(&self, command: &RollBack) -> Result<Vec<CardId>, Error> {
        if let Some(cards) = &command.cards {
            return Ok(cards.clone());
        }
        let (key, after) = (command.import.to_string(), command.after);
        let (index, after) = (card_rules::BY_IMPORT, after.map(|card| card.to_string()));
        let limit = usize::try_from(command.limit).unwrap_or(PIECE);
        let listed = self.core.list::<Card>(CARDS, index, &key, after, limit);
        Ok(listed.await?.into_iter().map(|card| card.id).collect())
    }

    async fn of_import(
        &self,
        import: CardImportId,
        card: CardId,
    ) -> Result<Option<Loaded<Card>>, Error> {
        match load_card(&self.core, card).await {
            Ok(card) if card.value.import == Some(import) => Ok(Some(card)),
            Ok(_) | Err(Error::Card(CardError::NotFound)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The row of a card that goes back, with the steps that take it back; or why it stays.
    async fn take_back(
        &self,
        card: &Loaded<Card>,
        steps: &mut Vec<Step>,
    ) -> Result<Result<ExportedCard, KeptReason>, Error> {
        use CardState::{Active, Expired, Frozen, Lost};

        let core = &self.core;
        let state = card.value.state;
        if !matches!(state, Active | Frozen | Lost | Expired) {
            return Ok(Err(KeptReason::OutOfUse { state }));
        }
        if card.value.family_of.is_some() {
            return Ok(Err(KeptReason::HasFamily));
        }
        let row = self.exported(&card.value).await?;
        if row.held_msat != 0 {
            let held_msat = row.held_msat;
            return Ok(Err(KeptReason::MoneyOnHold { held_msat }));
        }
        let own = card.value.balance_account();
        let pending_msat = core.balance(&own).await?.incoming(own.kind().side());
        if pending_msat != 0 {
            return Ok(Err(KeptReason::MoneyComing { pending_msat }));
        }
        let mut taken = Vec::new();
        let to = RetireTo::FormerIssuer;
        match require_none(core, card.value.id).await {
            Ok(()) => {}
            Err(Error::Card(CardError::Life(LifeError::HasFamily { .. }))) => {
                return Ok(Err(KeptReason::HasFamily));
            }
            Err(error) => return Err(error),
        }
        self.cards.retired(card, to, &mut taken)?;
        if row.balance_msat > 0 {
            taken.push(Step::Transfer(NewTransfer {
                id: core.new_id(TransferId::from_parts)?,
                debit: own,
                credit: Account::former_issuer(),
                amount: row.balance_msat,
                kind: TransferKind::Retirement,
                reference: card.value.id.to_string(),
                credit_ceiling: None,
            }));
        }
        // The row is right in the commit, or there is none: what was paid or came since the card
        // was read would be in no books.
        taken.push(Step::Within {
            account: own,
            lowest: Some(0),
            highest: Some(0),
        });
        taken.push(Step::Advance {
            counter: card_rules::counter_name(&card.value),
            to: i64::from(row.counter) + 1,
        });
        steps.extend(taken);
        Ok(Ok(row))
    }
}

/// The card that comes over again in its own place, and the steps that end the one before. The server
/// that had it meanwhile knows neither that it was stopped nor what its holder has set.
pub(super) async fn come_again(
    core: &Core,
    last: &Loaded<Card>,
    card: Card,
) -> Result<(Card, Vec<Step>), Error> {
    let before = &last.value;
    let state = match before.went_back_as {
        Some(state) => state,
        None => went_back::stood(core, before).await?,
    };
    // Whatever ran out while it was in use elsewhere is over: what it has now is good for as long as
    // any other's.
    let (is_out, now_ms) = (state == CardState::Expired, core.commit_time_ms());
    let ends_ms = before
        .expires_at_ms
        .filter(|at_ms| is_out || now_ms < *at_ms);
    let until_ms = ends_ms.into_iter().chain(card.expires_at_ms);
    let card = Card {
        state,
        stopped_at_ms: before.stopped_at_ms.filter(|_| state != card.state),
        expires_at_ms: until_ms.min(),
        // Neither what the issuer gives it now nor what it had before is exceeded.
        limits: programs::within_bounds(before.limits.clone(), &card.limits),
        zone_before: before.zone_before.clone(),
        recovery: before.recovery,
        replaces: Some(before.id),
        first: Some(before.line()),
        replacements: before.replacements.saturating_add(1),
        ..card
    };
    let ended = Card {
        state: CardState::Replaced,
        replaced_by: Some(card.id),
        ..last.value.clone()
    };
    let mut steps = vec![
        card_rules::write(&ended, last.version)?,
        emit("card.replaced", ended.id.to_string(), &ended)?,
    ];
    steps.extend(pin::carry(core, ended.id, card.id).await?);
    // That it has expired was told before: its money waits on.
    let waits = card.expires_at_ms.filter(|_| state == CardState::Expired);
    steps.extend(waits.map(|at_ms| due(BREAKAGE_JOB, card.id, at_ms)));
    Ok((card, steps))
}

fn check(command: &RollBack) -> Result<(), CommandError> {
    let most = u32::try_from(PIECE).unwrap_or(u32::MAX);
    let given = command.cards.as_ref().map_or(1, Vec::len);
    if !(1..=most).contains(&command.limit) || !(1..=PIECE).contains(&given) {
        let (field, bounds) = ("limit", "1 to 200 cards");
        return Err(CommandError::OutOfBounds { field, bounds });
    }
    let mut given = command.cards.clone().unwrap_or_default();
    given.sort_unstable();
    if given.windows(2).any(|pair| pair.first() == pair.last()) {
        let (field, bounds) = ("cards", "each card once");
        return Err(CommandError::OutOfBounds { field, bounds });
    }
    Ok(())
}

fn is_race(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::InsufficientFunds { .. }
            | Refusal::OutOfBounds { .. }
            | Refusal::CounterNotAdvanced { .. }
    )
}
