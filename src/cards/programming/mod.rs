//! Writing chips: a blank NTAG 424 DNA becomes a bolt card, gets other keys, or becomes blank
//! again.
//!
//! Each operation leads from what the chip holds to what it shall hold, and may be broken off
//! after any frame: the chip then holds keys that were given, and the same call with the same
//! arguments goes on where it stopped. Three things see to that:
//!
//! - The master key (key 0) is changed last, so that it says whether the rest is done, and opens
//!   the chip until it is.
//! - Which of the keys 1 to 4 were changed is not remembered but found out: a chip takes a new key
//!   only with the old one right, and a wrong guess there costs no failed authentication.
//! - A master key that does not open the chip is tried once, since the chip counts that.

mod error;
mod keys;
mod ntag424;
mod session;
mod settings;
mod template;
mod transport;

use std::sync::Arc;

pub use error::ChipError;
pub use keys::{CardPayload, ChipKeys};
pub use ntag424::{ChipFile, ChipVersion, Instruction, Ntag424};
pub use session::CommMode;
pub use settings::{Access, FileSettings, Mirroring};
pub use template::UrlTemplate;
pub use transport::{CardTransport, TransportError};

use super::boltcard::{PiccData, TapUrl, open_picc, verify_mac};
use crate::ports::Entropy;
use template::{FILE_SIZE, url_in};

/// The most sets of keys that are tried at one chip. A chip answers slowly after 50 failures in a
/// row and locks a key after 1,000 (AN12196 §6.4, failed authentication counter).
const MAX_KEY_SETS: usize = 8;

/// Writes chips behind one reader.
#[derive(Clone)]
pub struct CardProgrammer {
    transport: Arc<dyn CardTransport>,
    entropy: Arc<dyn Entropy>,
}

/// A chip that is held to the reader.
#[derive(Clone, PartialEq, Eq)]
pub struct ChipReading {
    /// Its number, 14 hex digits: what its keys are derived from. `None` when the chip is set up
    /// to hide it.
    pub uid: Option<String>,
    /// The URL it shows, if it shows one. Of a bolt card this is a tap.
    pub url: Option<String>,
}

impl std::fmt::Debug for ChipReading {
    // A tap that was not charged yet can be: it does not belong in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChipReading")
            .field("uid", &self.uid)
            .finish_non_exhaustive()
    }
}

/// A chip that was made a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Programmed {
    /// The counter of the tap with which it was checked; the next tap has a higher one.
    pub counter: u32,
}

/// Where an operation leads.
struct Target<'a> {
    uid: [u8; 7],
    keys: &'a ChipKeys,
    settings: FileSettings,
    /// `None`: the file is empty.
    template: Option<&'a UrlTemplate>,
}

impl CardProgrammer {
    /// Chips behind `transport`; `entropy` gives the reader's half of each authentication.
    pub fn new(transport: Arc<dyn CardTransport>, entropy: Arc<dyn Entropy>) -> Self {
        Self { transport, entropy }
    }

    /// Says which chip is there, so that its keys can be asked for. No key is needed.
    ///
    /// # Errors
    /// `card.chip_not_supported`; else as every command of [`Ntag424`].
    pub async fn read(&self) -> Result<ChipReading, ChipError> {
        let mut chip = self.chip();
        let uid = identify(&mut chip).await?;
        let file = read_file(&mut chip).await?;
        let url = file.as_deref().and_then(url_in).map(str::to_owned);
        let uid = uid.map(hex::encode);
        Ok(ChipReading { uid, url })
    }

    /// Makes a blank chip a card: the URL, the five keys, the mirrors; and checks its tap.
    ///
    /// A run that was broken off is finished by running it again. On a chip that was finished it
    /// changes nothing.
    ///
    /// # Errors
    /// `card.chip_other_card`, `card.chip_keys_refused`, `card.chip_key_unknown`,
    /// `card.chip_url_differs`, `card.chip_check_failed`, `card.chip_delayed`; else as every
    /// command of [`Ntag424`].
    pub async fn program(&self, payload: &CardPayload) -> Result<Programmed, ChipError> {
        self.reprogram(&[ChipKeys::factory()], payload).await
    }

    /// Gives a card other keys, and another URL with them. `current` are the keys it may hold,
    /// the likeliest first: those of its present version, and of older ones.
    ///
    /// With the same URL the chip's counter goes on; with another it begins again at 0.
    ///
    /// # Errors
    /// As for [`Self::program`], and `card.chip_too_many_keys`.
    pub async fn reprogram(
        &self,
        current: &[ChipKeys],
        payload: &CardPayload,
    ) -> Result<Programmed, ChipError> {
        let target = Target {
            uid: payload.uid,
            keys: &payload.keys,
            settings: payload.template.settings(),
            template: Some(&payload.template),
        };
        let mut chip = self.chip();
        lead(&mut chip, current, &target).await?;
        // Selecting ends the session: what follows is read as a phone reads it.
        chip.select_application().await?;
        let file = read_file(&mut chip).await?;
        file.filter(|file| target.is_content(file))
            .and_then(|file| tap_of(&file, &payload.keys))
            .filter(|tap| tap.uid == payload.uid)
            .map(|tap| Programmed {
                counter: tap.counter,
            })
            .ok_or(ChipError::CheckFailed)
    }

    /// Makes a card blank again: an empty file that everybody may write, and the keys of the
    /// factory. `uid` is the number of the chip, 14 hex digits; `current` as for
    /// [`Self::reprogram`].
    ///
    /// # Errors
    /// `card.bad_uid`; else as for [`Self::reprogram`].
    pub async fn wipe(&self, uid: &str, current: &[ChipKeys]) -> Result<(), ChipError> {
        let target = Target {
            uid: keys::parse_uid(uid)?,
            keys: &ChipKeys::factory(),
            settings: FileSettings::FACTORY,
            template: None,
        };
        lead(&mut self.chip(), current, &target).await
    }

    fn chip(&self) -> Ntag424 {
        Ntag424::new(self.transport.clone(), self.entropy.clone())
    }
}

impl Target<'_> {
    fn content(&self) -> &[u8] {
        self.template
            .map_or(&[0; FILE_SIZE], |template| template.file())
    }

    /// Whether a file holds what it shall, whatever the chip mirrors into it.
    fn is_content(&self, file: &[u8]) -> bool {
        let mirrors = self.template.map(UrlTemplate::mirrors);
        let mirrored = |at: usize| mirrors.iter().flatten().any(|range| range.contains(&at));
        file.len() == FILE_SIZE
            && file
                .iter()
                .zip(self.content())
                .enumerate()
                .all(|(at, (is, shall))| is == shall || mirrored(at))
    }
}

/// Leads a chip from any of the `current` keys to the target.
async fn lead(
    chip: &mut Ntag424,
    current: &[ChipKeys],
    target: &Target<'_>,
) -> Result<(), ChipError> {
    if current.len() > MAX_KEY_SETS {
        return Err(ChipError::TooManyKeys {
            limit: MAX_KEY_SETS,
        });
    }
    if identify(chip).await?.is_some_and(|uid| uid != target.uid) {
        return Err(ChipError::OtherCard);
    }
    let file = read_file(chip).await?;
    let mut sets: Vec<&ChipKeys> = current.iter().collect();
    // A tap tells the set of keys without costing a failed authentication.
    if let Some(file) = &file {
        sets.sort_by_key(|set| tap_of(file, set).is_none());
    }
    sets.push(target.keys);
    let master = open(chip, &sets).await?;
    if chip.card_uid().await? != target.uid {
        return Err(ChipError::OtherCard);
    }
    let described = chip.file_settings(ChipFile::Ndef).await?;
    let stands = target.settings.matches(&described, FILE_SIZE);
    let written = file.is_some_and(|file| target.is_content(&file));
    let opened_by_target = master.key(0) == target.keys.key(0);
    if opened_by_target && target.template.is_some() && !(stands && written) {
        return Err(ChipError::UrlDiffers);
    }
    if !written {
        // Mirrors off while the text changes, and nobody else writes meanwhile.
        if !FileSettings::LOCKED.matches(&described, FILE_SIZE) {
            chip.change_file_settings(ChipFile::Ndef, &FileSettings::LOCKED)
                .await?;
        }
        chip.write_data(CommMode::Plain, ChipFile::Ndef, 0, target.content())
            .await?;
    }
    for number in 1..=4 {
        change(chip, number, master, &sets, target.keys).await?;
    }
    if !(stands && written) {
        chip.change_file_settings(ChipFile::Ndef, &target.settings)
            .await?;
    }
    if opened_by_target {
        return Ok(());
    }
    let (old, new) = (master.key(0), target.keys.key(0));
    chip.change_key(0, old, new, target.keys.version).await?;
    // The chip cannot sign its answer to that: what it holds is shown by opening it.
    if chip.authenticate_first(0, new).await? {
        Ok(())
    } else {
        Err(ChipError::CheckFailed)
    }
}

/// Says which chip is there; `None` when it hides its number until it is opened.
async fn identify(chip: &mut Ntag424) -> Result<Option<[u8; 7]>, ChipError> {
    chip.select_application().await?;
    let version = chip.version().await?;
    if version.is_ntag_424_dna() {
        Ok(Some(version.uid).filter(|uid| *uid != [0; 7]))
    } else {
        Err(ChipError::NotSupported)
    }
}

/// The NDEF file as a phone reads it; `None` when the chip does not show it to everybody.
async fn read_file(chip: &mut Ntag424) -> Result<Option<Vec<u8>>, ChipError> {
    let content = chip
        .read_data(CommMode::Plain, ChipFile::Ndef, 0, FILE_SIZE)
        .await;
    match content {
        Ok(content) => Ok(Some(content)),
        Err(ChipError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the tap in a file says, when it was made with these keys.
fn tap_of(file: &[u8], set: &ChipKeys) -> Option<PiccData> {
    let tap = TapUrl::parse(url_in(file)?).ok()?;
    let picc = open_picc(&set.keys.k1, tap.p()).ok()?;
    verify_mac(&set.keys, &picc, tap.c()).ok()?;
    Some(picc)
}

/// Authenticates with the first master key that the chip takes; each different one is tried once.
async fn open<'a>(chip: &mut Ntag424, sets: &[&'a ChipKeys]) -> Result<&'a ChipKeys, ChipError> {
    let mut tried = 0;
    for (index, set) in sets.iter().enumerate() {
        let before = &sets[..index];
        if before.iter().any(|before| before.key(0) == set.key(0)) {
            continue;
        }
        if chip.authenticate_first(0, set.key(0)).await? {
            return Ok(set);
        }
        tried += 1;
    }
    Err(ChipError::KeysRefused { tried })
}

/// Changes one of the keys 1 to 4, whichever of the sets it is from. `master` opened the chip.
async fn change(
    chip: &mut Ntag424,
    number: u8,
    master: &ChipKeys,
    sets: &[&ChipKeys],
    target: &ChipKeys,
) -> Result<(), ChipError> {
    let factory = ChipKeys::factory();
    let mut guesses = vec![master];
    guesses.extend(sets);
    guesses.push(&factory);
    // The version byte is a hint at best: other programmers write the same one always.
    if chip.key_version(number).await? == target.version {
        guesses.insert(0, target);
    }
    for (index, guess) in guesses.iter().enumerate() {
        let old = guess.key(number);
        if guesses[..index]
            .iter()
            .any(|before| before.key(number) == old)
        {
            continue;
        }
        if chip.authenticated_with().is_none() && !chip.authenticate_first(0, master.key(0)).await?
        {
            return Err(ChipError::KeysRefused { tried: 1 });
        }
        if chip
            .change_key(number, old, target.key(number), target.version)
            .await?
        {
            return Ok(());
        }
    }
    Err(ChipError::KeyUnknown { number })
}
