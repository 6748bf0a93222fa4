//! A note on a card, in its holder's words: whose it is, what it is for.
//!
//! It may be somebody's name. So it stands in a document of its own, which no hash covers and no
//! event, no answer that is kept and no digest of a command shows: when it is erased, it is gone.

use serde::{Deserialize, Serialize};

use super::may_stop;
use super::model::{CardNoteSet, SetCardNote};
use crate::Error;
use crate::access::Credential;
use crate::cards::{Cards, guard, load};
use crate::core::{Answer, Core, Decision, Executed, Loaded, check_text, emit, put};
use crate::ids::CardId;

const NOTES: &str = "card_note";

#[derive(Serialize, Deserialize)]
struct Note {
    text: Option<String>,
}

async fn load_note(core: &Core, card: CardId) -> Result<Option<Loaded<Note>>, Error> {
    core.load(NOTES, &card.to_string()).await
}

impl Cards {
    /// Sets the note of a card, or erases it. Its holder, of a family card the main card's as
    /// well, or the issuer.
    ///
    /// # Errors
    /// `card.not_found`, `command.out_of_bounds`, `command.*`, `access.*`.
    pub async fn set_note(
        &self,
        credential: &Credential,
        command: SetCardNote,
    ) -> Result<Answer<CardNoteSet>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &cards.core;
                let caller = core.authenticate(&credential).await?;
                if let Some(note) = &command.note {
                    check_text("note", note, 200, "200 characters")?;
                }
                // The digest of a command is kept: of a name it could be tried out.
                let asked = SetCardNote {
                    note: command.note.as_ref().map(|note| core.secrets.blind(note)),
                    ..command.clone()
                };
                let (card, text, caller) = (command.card, &command.note, &caller);
                let decide = || async move {
                    let noted = load(core, card).await?;
                    may_stop(caller, &noted.value)?;
                    let version = load_note(core, card)
                        .await?
                        .map_or(0, |found| found.version);
                    let answer = CardNoteSet {
                        card,
                        has_note: text.is_some(),
                    };
                    let note = Note { text: text.clone() };
                    let steps = vec![
                        guard(&noted),
                        put(NOTES, card.to_string(), version, &note, Vec::new())?,
                        emit("card.note_set", card.to_string(), &answer)?,
                    ];
                    Ok(Decision { steps, answer })
                };
                let operation = "cards.set_note";
                let executed: Executed<CardNoteSet> = core
                    .execute(caller, operation, &command.key, &asked, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    /// The note of a card, if it has one. Its holder, of a family card the main card's as well,
    /// or the issuer.
    ///
    /// # Errors
    /// `access.*`.
    pub async fn note(
        &self,
        credential: &Credential,
        card: CardId,
    ) -> Result<Answer<Option<String>>, Error> {
        let caller = self.core.authenticate(credential).await?;
        may_stop(&caller, &load(&self.core, card).await?.value)?;
        let as_of_ms = self.core.clock.now_ms();
        let found = load_note(&self.core, card).await?;
        let value = found.and_then(|found| found.value.text);
        Ok(Answer { as_of_ms, value })
    }
}
