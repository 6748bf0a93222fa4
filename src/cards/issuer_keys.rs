//! The issuer keys of an engine's cards: one that new cards are made with, and those before it.
//!
//! A key is derived from the master secret (the first, and one more with each rotation), given by
//! the host when it builds the engine, or imported at run time and sealed with the host's key. A
//! card keeps the key that it was made with. The books know keys by their names alone.

use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use super::boltcard::{IssuerKey, IssuerKeyId, IssuerKeyRing};
use super::{CardError, Cards};
use crate::Error;
use crate::access::{Credential, HostKeys};
use crate::core::{
    Answer, CommandError, Core, Decision, Executed, IdempotencyKey, Loaded, emit, put,
};
use crate::ledger::Step;
use crate::store::StoreError;

const ISSUER_KEYS: &str = "issuer_keys";
const RING: &str = "ring";
/// So many can be derived, and so many imported.
const MOST: usize = 1_000;

/// Makes a new issuer key, for the cards that are issued from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateIssuerKey {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
}

/// Brings the issuer key of cards that somebody else made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportIssuerKey {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The key: 32 hex digits. `Debug` does not show it.
    pub issuer_key: IssuerKey,
}

/// Where an issuer key comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IssuerKeyOrigin {
    /// Given by the host to the engine's builder.
    Given,
    /// Derived from the master secret.
    Derived,
    /// Imported, and sealed in the store with the host's key.
    Imported,
}

/// An issuer key, without the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerKeyInfo {
    /// Its name, which its cards have.
    pub id: IssuerKeyId,
    /// Where it comes from.
    pub origin: IssuerKeyOrigin,
    /// New cards are made with it.
    pub is_current: bool,
    /// The engine has it. Taps of cards whose key it does not have are `card.tap_not_ours`: an
    /// imported one can only be opened with the host's key.
    pub is_present: bool,
}

/// What the books know of the keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct RingRecord {
    derived: u32,
    imported: Vec<IssuerKeyId>,
    current: Option<IssuerKeyId>,
}

impl Default for RingRecord {
    fn default() -> Self {
        Self {
            derived: 1,
            imported: Vec::new(),
            current: None,
        }
    }
}

/// The keys as they stand at a version of the record.
pub(super) struct State {
    version: i64,
    infos: Vec<IssuerKeyInfo>,
    current: IssuerKeyId,
    pub(super) ring: IssuerKeyRing,
}

impl State {
    /// The key that new cards are made with.
    pub(super) fn current(&self) -> IssuerKeyId {
        self.current
    }

    /// Holds in the commit: no other key has become the current one.
    pub(super) fn guard(&self) -> Step {
        Step::Require {
            collection: ISSUER_KEYS,
            id: RING.to_owned(),
            version: self.version,
        }
    }

    fn of_rotation(&self, answer: &IssuerKeyId) -> Option<IssuerKeyInfo> {
        self.infos.iter().find(|info| info.id == *answer).cloned()
    }
}

/// The keys that an engine has, and how it comes by them.
pub(crate) struct IssuerKeys {
    given: Option<IssuerKey>,
    host_keys: Option<HostKeys>,
    state: RwLock<Arc<State>>,
}

fn sealed_name(id: IssuerKeyId) -> String {
    format!("issuer-key/{id}")
}

async fn record(core: &Core) -> Result<Loaded<RingRecord>, Error> {
    let found = core.load(ISSUER_KEYS, RING).await?;
    Ok(found.unwrap_or(Loaded {
        version: 0,
        value: RingRecord::default(),
    }))
}

impl IssuerKeys {
    pub(crate) async fn open(
        core: &Core,
        given: Option<IssuerKey>,
        host_keys: Option<HostKeys>,
    ) -> Result<Self, Error> {
        let state = read(core, given.as_ref(), host_keys.as_ref()).await?;
        Ok(Self {
            given,
            host_keys,
            state: RwLock::new(Arc::new(state)),
        })
    }

    pub(super) fn state(&self) -> Arc<State> {
        let state = self.state.read();
        state.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// As the books have them now: another instance may have changed them. True when it has.
    pub(super) async fn refresh(&self, core: &Core) -> Result<bool, Error> {
        if record(core).await?.version == self.state().version {
            return Ok(false);
        }
        let state = read(core, self.given.as_ref(), self.host_keys.as_ref()).await?;
        let mut place = self.state.write().unwrap_or_else(PoisonError::into_inner);
        // Two that read at once: the older is not to be the last.
        if place.version < state.version {
            *place = Arc::new(state);
        }
        Ok(true)
    }
}

/// The keys that the record names, as far as they are here.
async fn read(
    core: &Core,
    given: Option<&IssuerKey>,
    host_keys: Option<&HostKeys>,
) -> Result<State, Error> {
    let Loaded { version, value } = record(core).await?;
    let mut found = Vec::new();
    if let Some(key) = given {
        found.push((key.id(), IssuerKeyOrigin::Given, Some(key.clone())));
    }
    // The newest first: most cards are of it.
    for generation in (1..=value.derived).rev() {
        let key = IssuerKey::new(*core.secrets.issuer_key(generation));
        found.push((key.id(), IssuerKeyOrigin::Derived, Some(key)));
    }
    for id in &value.imported {
        let opened = match host_keys {
            Some(keys) => keys.open(core.store.as_ref(), &sealed_name(*id)).await?,
            None => None,
        };
        let key = match opened {
            Some(bytes) => Some(bytes.as_slice().try_into().map_err(|_| damaged(*id))?),
            None => None,
        };
        found.push((*id, IssuerKeyOrigin::Imported, key.map(IssuerKey::new)));
    }
    let first = found.first().map(|(id, ..)| *id);
    let current = value.current.or(first).ok_or(CardError::NotFound)?;
    let infos = found.iter().map(|(id, origin, key)| IssuerKeyInfo {
        id: *id,
        origin: *origin,
        is_current: *id == current,
        is_present: key.is_some(),
    });
    Ok(State {
        version,
        infos: infos.collect(),
        current,
        ring: IssuerKeyRing::new(found.into_iter().filter_map(|(.., key)| key)),
    })
}

fn damaged(id: IssuerKeyId) -> StoreError {
    StoreError::Corrupt {
        reason: format!("the issuer key {id} is sealed in another length"),
    }
}

fn too_many(field: &'static str) -> CommandError {
    let bounds = "at most 1,000 of them";
    CommandError::OutOfBounds { field, bounds }
}

impl Cards {
    /// Refuses an issuer key that is not here.
    pub(super) fn require_issuer_key(&self, issuer_key: IssuerKeyId) -> Result<(), CardError> {
        match self.issuer_keys.state().ring.key(issuer_key) {
            Some(_) => Ok(()),
            None => Err(CardError::IssuerKeyMissing { issuer_key }),
        }
    }

    /// The issuer keys of this engine's cards, without the keys. Issuer only.
    ///
    /// # Errors
    /// `access.*`.
    pub async fn issuer_keys(
        &self,
        credential: &Credential,
    ) -> Result<Answer<Vec<IssuerKeyInfo>>, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_issuer()?;
        let as_of_ms = self.core.clock.now_ms();
        self.issuer_keys.refresh(&self.core).await?;
        let value = self.issuer_keys.state().infos.clone();
        Ok(Answer { as_of_ms, value })
    }

    /// Makes a new issuer key, derived from the master secret, with which cards are issued from
    /// now on. Cards of before keep theirs, and go on paying. Issuer only.
    ///
    /// # Errors
    /// `command.*`, `access.*`.
    pub async fn rotate_issuer_key(
        &self,
        credential: &Credential,
        command: RotateIssuerKey,
    ) -> Result<Answer<IssuerKeyInfo>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &cards.core;
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                let decide = || async {
                    let Loaded { version, mut value } = record(core).await?;
                    if value.derived >= u32::try_from(MOST).unwrap_or(u32::MAX) {
                        return Err(too_many("issuer_keys").into());
                    }
                    value.derived += 1;
                    let id = IssuerKey::new(*core.secrets.issuer_key(value.derived)).id();
                    value.current = Some(id);
                    rotated(&value, version, id, "issuer_key.rotated")
                };
                let operation = "cards.rotate_issuer_key";
                let executed: Executed<IssuerKeyId> = core
                    .execute(&caller, operation, &command.key, &command, decide)
                    .await?;
                cards.key_info(executed.answer).await
            })
            .await
    }

    /// Takes in the issuer key of cards that somebody else made, so that their taps are read. It
    /// is sealed in the store with the host's key, and never told. Issuer only.
    ///
    /// # Errors
    /// `card.no_host_key` for an engine that was built without one, `command.*`, `access.*`.
    pub async fn import_issuer_key(
        &self,
        credential: &Credential,
        command: ImportIssuerKey,
    ) -> Result<Answer<IssuerKeyInfo>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &cards.core;
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                let host_keys = cards.issuer_keys.host_keys.as_ref();
                let host_keys = host_keys.ok_or(CardError::NoHostKey)?;
                let ImportIssuerKey { key, issuer_key } = &command;
                let id = issuer_key.id();
                if record(core).await?.value.imported.len() >= MOST {
                    return Err(too_many("issuer_keys").into());
                }
                // First, so that the books never name a key that is lost. Done again, it is the
                // same key in the same place.
                let (store, name) = (core.store.as_ref(), sealed_name(id));
                host_keys.seal(store, &name, issuer_key.bytes()).await?;
                let decide = || async {
                    let Loaded { version, mut value } = record(core).await?;
                    if !value.imported.contains(&id) {
                        value.imported.push(id);
                    }
                    rotated(&value, version, id, "issuer_key.imported")
                };
                let operation = "cards.import_issuer_key";
                // Not the command: the digest of a request is kept.
                let executed: Executed<IssuerKeyId> =
                    core.execute(&caller, operation, key, &id, decide).await?;
                cards.key_info(executed.answer).await
            })
            .await
    }

    async fn key_info(&self, answer: Answer<IssuerKeyId>) -> Result<Answer<IssuerKeyInfo>, Error> {
        self.issuer_keys.refresh(&self.core).await?;
        let info = self.issuer_keys.state().of_rotation(&answer.value);
        let issuer_key = answer.value;
        Ok(Answer {
            as_of_ms: answer.as_of_ms,
            value: info.ok_or(CardError::IssuerKeyMissing { issuer_key })?,
        })
    }
}

fn rotated(
    record: &RingRecord,
    read_version: i64,
    answer: IssuerKeyId,
    event: &'static str,
) -> Result<Decision<IssuerKeyId>, Error> {
    let steps = vec![
        put(
            ISSUER_KEYS,
            RING.to_owned(),
            read_version,
            record,
            Vec::new(),
        )?,
        emit(event, answer.to_string(), record)?,
    ];
    Ok(Decision { steps, answer })
}
