//! New cards, one or many at once, and what a card programmer writes on their chips.

use super::boltcard::IssuerKeyId;
use super::model::{Card, CardState, ExistingChip, IssueCard, IssueCards, ProgrammingKeys};
use super::programs::{self, CardProgram};
use super::{CardError, Cards, parse_uid, rules};
use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, CommandError, Decision, Executed, Loaded, emit};
use crate::ids::{CardId, CardProgramId};
use crate::ledger::Step;

pub(super) const FIRST_VERSION: u32 = 1;
/// So many cards are issued in one commit, and so many keys told in one answer.
const MAX_BATCH: usize = 500;

/// What the cards of one command have in common.
struct Making {
    issuer_key: IssuerKeyId,
    program: Option<Loaded<CardProgram>>,
}

impl Cards {
    /// Makes a card for a chip. Issuer only.
    ///
    /// # Errors
    /// `card.bad_uid`, `card.already_issued`, `card.unknown_time_zone`, `card.program_not_found`,
    /// `card.issuer_key_missing`, `command.*`, `access.*`.
    pub async fn issue(
        &self,
        credential: &Credential,
        command: IssueCard,
    ) -> Result<Answer<Card>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = cards.core.authenticate(&credential).await?;
                caller.require_issuer()?;
                parse_uid(&command.uid)?;
                rules::check_limits(&command.limits)?;
                rules::check_existing_chip(command.existing_chip.as_ref())?;
                let decide = || async {
                    let existing = command.existing_chip.as_ref();
                    let named = existing.and_then(|chip| chip.issuer_key);
                    let (making, mut steps) = cards.making(named, command.program).await?;
                    let (answer, own) = cards.make(&making, &command.uid, &command).await?;
                    steps.extend(own);
                    Ok(Decision { steps, answer })
                };
                let executed: Executed<Card> = cards
                    .core
                    .execute(&caller, "cards.issue", &command.key, &command, decide)
                    .await
                    .map_err(rules::refused)?;
                Ok(executed.answer)
            })
            .await
    }

    /// Makes cards for many chips, all or none, in one commit. Issuer only.
    ///
    /// # Errors
    /// As for [`issue`](Self::issue); `card.already_issued` names the first that was.
    pub async fn issue_batch(
        &self,
        credential: &Credential,
        command: IssueCards,
    ) -> Result<Answer<Vec<Card>>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = cards.core.authenticate(&credential).await?;
                caller.require_issuer()?;
                check_batch(&command.uids)?;
                rules::check_limits(&command.limits)?;
                let decide = || async {
                    let (making, mut steps) = cards.making(None, command.program).await?;
                    let mut answer = Vec::with_capacity(command.uids.len());
                    for uid in &command.uids {
                        let single = IssueCard {
                            key: command.key.clone(),
                            uid: uid.clone(),
                            existing_chip: None,
                            limits: command.limits.clone(),
                            program: command.program,
                        };
                        let (card, own) = cards.make(&making, uid, &single).await?;
                        steps.extend(own);
                        answer.push(card);
                    }
                    Ok(Decision { steps, answer })
                };
                let executed: Executed<Vec<Card>> = cards
                    .core
                    .execute(&caller, "cards.issue_batch", &command.key, &command, decide)
                    .await
                    .map_err(rules::refused)?;
                Ok(executed.answer)
            })
            .await
    }

    /// What the cards of a command have in common, and the steps that hold it in the commit.
    async fn making(
        &self,
        issuer_key: Option<IssuerKeyId>,
        program: Option<CardProgramId>,
    ) -> Result<(Making, Vec<Step>), Error> {
        self.issuer_keys.refresh(&self.core).await?;
        let mut steps = Vec::new();
        let issuer_key = match issuer_key {
            Some(named) => named,
            None => {
                let state = self.issuer_keys.state();
                steps.push(state.guard());
                state.current()
            }
        };
        let program = match program {
            Some(program) => Some(programs::load(&self.core, program).await?),
            None => None,
        };
        steps.extend(program.as_ref().map(programs::guard));
        let making = Making {
            issuer_key,
            program,
        };
        Ok((making, steps))
    }

    /// A new card and its steps.
    async fn make(
        &self,
        making: &Making,
        uid: &str,
        command: &IssueCard,
    ) -> Result<(Card, Vec<Step>), Error> {
        let uid = parse_uid(uid)?;
        let state = self.issuer_keys.state();
        let issuer_key = making.issuer_key;
        let missing = CardError::IssuerKeyMissing { issuer_key };
        let key = state.ring.key(issuer_key).ok_or(missing)?;
        let of = programs::terms_of_a_new_card(making.program.as_ref(), &command.limits);
        let existing: Option<&ExistingChip> = command.existing_chip.as_ref();
        let chip = hex::encode(key.card_id_hash(&uid));
        let (version, claim) = self.next_version(&uid, &chip, existing).await?;
        let card = Card {
            chip,
            version,
            pull_payment_id: existing.and_then(|chip| chip.pull_payment_id.clone()),
            limits: of.limits,
            issued_with: of.issued_with,
            created_at_ms: self.core.clock.now_ms(),
            program: command.program,
            unit: of.unit,
            issuer_key: Some(issuer_key),
            ..Card::blank(self.core.new_id(CardId::from_parts)?)
        };
        let mut steps = vec![
            Step::Claim {
                name: claim,
                by: card.id.to_string(),
            },
            rules::write(&card, 0)?,
            emit("card.issued", card.id.to_string(), &card)?,
        ];
        let used = existing.map(|chip| chip.counter).filter(|used| *used > 0);
        steps.extend(rules::begin_counting(&card, used));
        Ok((card, steps))
    }

    /// The keys that a card programmer writes on the chip with this number: derived, never kept.
    /// Issuer only, and only until the card is activated.
    ///
    /// # Errors
    /// `card.not_found`, `card.keys_withheld`, `card.bad_uid`, `access.*`.
    pub async fn programming_keys(
        &self,
        credential: &Credential,
        uid: &str,
    ) -> Result<ProgrammingKeys, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_issuer()?;
        self.issuer_keys.refresh(&self.core).await?;
        self.keys_to_program(uid).await
    }

    /// As [`programming_keys`](Self::programming_keys), of many chips (at most 500), in their
    /// order: for a machine that writes a batch.
    ///
    /// # Errors
    /// Those of [`programming_keys`](Self::programming_keys), `command.out_of_bounds`.
    pub async fn programming_keys_batch(
        &self,
        credential: &Credential,
        uids: &[String],
    ) -> Result<Vec<ProgrammingKeys>, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_issuer()?;
        check_batch(uids)?;
        self.issuer_keys.refresh(&self.core).await?;
        let mut keys = Vec::with_capacity(uids.len());
        for uid in uids {
            keys.push(self.keys_to_program(uid).await?);
        }
        Ok(keys)
    }

    async fn keys_to_program(&self, uid: &str) -> Result<ProgrammingKeys, Error> {
        let uid = parse_uid(uid)?;
        let card = self.by_chip(&uid).await?;
        if card.value.state != CardState::Issued {
            return Err(CardError::KeysWithheld {
                card: card.value.id,
            }
            .into());
        }
        Ok(self.told(&card.value, &uid)?)
    }

    /// The keys of a card, to be told.
    pub(super) fn told(&self, card: &Card, uid: &[u8; 7]) -> Result<ProgrammingKeys, CardError> {
        let keys = self.keys(card, uid)?;
        Ok(ProgrammingKeys {
            lnurlw: format!("lnurlw://{}", self.core.settings.tap_url),
            version: card.version,
            k0: keys.k0.to_hex(),
            k1: keys.k1.to_hex(),
            k2: keys.k2.to_hex(),
            k3: keys.k3.to_hex(),
            k4: keys.k4.to_hex(),
        })
    }
}

fn check_batch(uids: &[String]) -> Result<(), Error> {
    if uids.is_empty() || uids.len() > MAX_BATCH {
        let (field, bounds) = ("uids", "1 to 500 of them");
        return Err(CommandError::OutOfBounds { field, bounds }.into());
    }
    uids.iter().try_for_each(|uid| parse_uid(uid).map(drop))?;
    Ok(())
}
