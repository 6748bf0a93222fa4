//! Secrets at rest: in the store, sealed with a key that the host supplies.
//!
//! A host whose system keeps a key but nothing else (a phone's keystore, a key service) need not
//! keep the master secret itself, nor the issuer keys that it brings. Only their sealed form is in
//! the store (XChaCha20-Poly1305); everything else that is secret is derived from the master
//! secret. A new key is given with the old one beside it, and what that has sealed is sealed anew.

use std::fmt;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use hkdf::Hkdf;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use super::{AccessError, ENGINE, IDENTITY, Identity};
use crate::Error;
use crate::core::{CommandError, MasterSecret, Secrets, put, unreadable};
use crate::ids::BatchId;
use crate::ledger::{Batch, Document};
use crate::ports::{Clock, Entropy, SystemClock, SystemEntropy};
use crate::store::{CommitError, DocumentQuery, MAX_PAGE, Store};

/// A key of the host's: 32 random bytes that are nowhere in the store.
#[derive(Clone)]
pub struct HostKey([u8; 32]);

impl HostKey {
    /// Takes the bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A name by which the books tell keys apart: 16 hex digits, of no use for anything else.
    pub fn name(&self) -> String {
        let name: Zeroizing<[u8; 8]> = self.derive(b"flashkit/host-key/name/1");
        hex::encode(*name)
    }

    fn derive<const N: usize>(&self, label: &[u8]) -> Zeroizing<[u8; N]> {
        const { assert!(N <= 255 * 32, "HKDF-SHA256 gives at most 8,160 bytes") };
        let mut out = Zeroizing::new([0; N]);
        let expanded = Hkdf::<Sha256>::new(None, &self.0).expand(label, out.as_mut_slice());
        debug_assert!(expanded.is_ok());
        out
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        let key: Zeroizing<[u8; 32]> = self.derive(b"flashkit/host-key/seal/1");
        XChaCha20Poly1305::new((&*key).into())
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostKey(redacted)")
    }
}

impl Drop for HostKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The key that seals, and those before it that may still open.
#[derive(Debug, Clone)]
pub struct HostKeys {
    current: HostKey,
    retired: Vec<HostKey>,
}

impl HostKeys {
    /// One key.
    pub fn new(current: HostKey) -> Self {
        let retired = Vec::new();
        Self { current, retired }
    }

    /// With a key that was the current one before: what it sealed is sealed anew.
    #[must_use]
    pub fn with_retired(mut self, key: HostKey) -> Self {
        self.retired.push(key);
        self
    }

    fn named(&self, name: &str) -> Option<&HostKey> {
        let all = std::iter::once(&self.current).chain(&self.retired);
        all.into_iter().find(|key| key.name() == name)
    }
}

const SEALED: &str = "sealed_secret";
/// The index under which all of them stand.
const ALL: &str = "all";
const MASTER: &str = "master";
const NONCE: usize = 24;

/// As it stands in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sealed {
    /// The name of the key.
    key: String,
    /// 48 hex digits.
    nonce: String,
    /// The secret and its tag, hex.
    sealed: String,
}

/// Bound into the seal, so that no secret can be put in another's place.
fn purpose(name: &str) -> Vec<u8> {
    [b"flashkit/sealed/1/", name.as_bytes()].concat()
}

impl Sealed {
    fn new(name: &str, secret: &[u8], key: &HostKey) -> Result<Self, Error> {
        let mut nonce = [0; NONCE];
        SystemEntropy.fill(&mut nonce)?;
        let payload = Payload {
            msg: secret,
            aad: &purpose(name),
        };
        let sealed = key.cipher().encrypt(&nonce.into(), payload);
        Ok(Self {
            key: key.name(),
            nonce: hex::encode(nonce),
            sealed: hex::encode(sealed.map_err(|_| AccessError::SealBroken)?),
        })
    }

    fn open(&self, name: &str, keys: &HostKeys) -> Result<Zeroizing<Vec<u8>>, AccessError> {
        let wrong_key = || AccessError::WrongHostKey {
            sealed_with: self.key.clone(),
        };
        let key = keys.named(&self.key).ok_or_else(wrong_key)?;
        let mut nonce = [0; NONCE];
        hex::decode_to_slice(&self.nonce, &mut nonce).map_err(|_| AccessError::SealBroken)?;
        let sealed = hex::decode(&self.sealed).map_err(|_| AccessError::SealBroken)?;
        let payload = Payload {
            msg: &sealed,
            aad: &purpose(name),
        };
        let opened = key.cipher().decrypt(&nonce.into(), payload);
        opened
            .map(Zeroizing::new)
            .map_err(|_| AccessError::SealBroken)
    }
}

/// How often somebody else who writes the same secret at the same time is waited for.
const TRIES: usize = 8;

impl HostKeys {
    /// Seals a secret of the host's in the store under a name, in the place of the one before: an
    /// imported issuer key. At most 100 bytes of printable ASCII for the name.
    ///
    /// # Errors
    /// `command.bad_key` for another name, `command.contended`, `store.*`.
    pub async fn seal(&self, store: &dyn Store, name: &str, secret: &[u8]) -> Result<(), Error> {
        let is_name = (1..=MAX_NAME).contains(&name.len());
        if name == MASTER || !is_name || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(CommandError::BadKey.into());
        }
        for _ in 0..TRIES {
            let found = load::<Sealed>(store, SEALED, name).await?;
            let version = found.map_or(0, |(version, _)| version);
            if self.write(store, name, secret, version).await? {
                return Ok(());
            }
        }
        Err(CommandError::Contended.into())
    }

    /// The secret that is sealed under a name.
    ///
    /// # Errors
    /// `access.wrong_host_key`, `access.seal_broken`, `store.*`.
    pub async fn open(
        &self,
        store: &dyn Store,
        name: &str,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        match load::<Sealed>(store, SEALED, name).await? {
            Some((_, sealed)) => Ok(Some(sealed.open(name, self)?)),
            None => Ok(None),
        }
    }

    /// Seals everything anew that a retired key has sealed; answers how much that was. After that
    /// the retired keys open nothing any more.
    ///
    /// # Errors
    /// `access.wrong_host_key`, `access.seal_broken`, `command.contended`, `store.*`.
    pub async fn rotate(&self, store: &dyn Store) -> Result<usize, Error> {
        let (mut rotated, mut after) = (0, None);
        loop {
            let query = DocumentQuery {
                after,
                ..DocumentQuery::under(SEALED, ALL, ALL, MAX_PAGE)
            };
            let page = store.documents(query).await?;
            let Some((last, _)) = page.last() else {
                return Ok(rotated);
            };
            after = Some(last.clone());
            for (_, document) in page {
                rotated += usize::from(self.seal_anew(store, &document.id).await?);
            }
        }
    }

    /// True when it had been sealed with a retired key.
    async fn seal_anew(&self, store: &dyn Store, name: &str) -> Result<bool, Error> {
        for _ in 0..TRIES {
            let Some((version, sealed)) = load::<Sealed>(store, SEALED, name).await? else {
                return Ok(false);
            };
            if sealed.key == self.current.name() {
                return Ok(false);
            }
            let secret = sealed.open(name, self)?;
            if self.write(store, name, &secret, version).await? {
                return Ok(true);
            }
        }
        Err(CommandError::Contended.into())
    }

    /// False when somebody else has written in between.
    async fn write(
        &self,
        store: &dyn Store,
        name: &str,
        secret: &[u8],
        version: i64,
    ) -> Result<bool, Error> {
        let sealed = Sealed::new(name, secret, &self.current)?;
        let mut random = [0; 10];
        SystemEntropy.fill(&mut random)?;
        let keys = vec![(ALL, ALL.to_owned())];
        let batch = Batch {
            id: BatchId::from_parts(SystemClock.now_ms().max(0).cast_unsigned(), random),
            command: None,
            steps: vec![put(SEALED, name.to_owned(), version, &sealed, keys)?].into(),
        };
        match store.commit(batch).await {
            Ok(_) => Ok(true),
            Err(CommitError::Refused(refusal)) if refusal.should_decide_again() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

const MAX_NAME: usize = 100;

impl MasterSecret {
    /// The master secret that is sealed in the store; a new one is made and sealed in a store
    /// that has no books yet. Sealed with a retired key, it is sealed anew with the current one.
    ///
    /// # Errors
    /// `access.wrong_host_key`, `access.seal_broken`, `access.not_sealed` where the books were
    /// made with a secret that the host keeps: see [`seal_in`](Self::seal_in). `store.*`.
    pub async fn sealed_in(store: &dyn Store, keys: &HostKeys) -> Result<Self, Error> {
        for _ in 0..TRIES {
            if let Some(bytes) = keys.open(store, MASTER).await? {
                keys.seal_anew(store, MASTER).await?;
                let bytes = bytes.as_slice().try_into();
                return Ok(bytes.map(Self::new).map_err(|_| AccessError::SealBroken)?);
            }
            if load::<Identity>(store, ENGINE, IDENTITY).await?.is_some() {
                return Err(AccessError::NotSealed.into());
            }
            let mut bytes = Zeroizing::new([0; 32]);
            SystemEntropy.fill(bytes.as_mut_slice())?;
            if keys.write(store, MASTER, bytes.as_slice(), 0).await? {
                return Ok(Self::new(*bytes));
            }
        }
        Err(CommandError::Contended.into())
    }

    /// Seals this secret in the store: for books that were made with a secret of the host's.
    ///
    /// # Errors
    /// `access.other_secret` where the books were made with another one, or another one is sealed
    /// there; `command.contended`, `store.*`.
    pub async fn seal_in(&self, store: &dyn Store, keys: &HostKeys) -> Result<(), Error> {
        for _ in 0..TRIES {
            let identity = load::<Identity>(store, ENGINE, IDENTITY).await?;
            let check = Secrets::new(self.clone()).check();
            if identity.is_some_and(|(_, identity)| identity.secret_check != check) {
                return Err(AccessError::OtherSecret.into());
            }
            if let Some(bytes) = keys.open(store, MASTER).await? {
                if bytes.as_slice() != self.expose() {
                    return Err(AccessError::OtherSecret.into());
                }
                keys.seal_anew(store, MASTER).await?;
                return Ok(());
            }
            if keys.write(store, MASTER, self.expose(), 0).await? {
                return Ok(());
            }
        }
        Err(CommandError::Contended.into())
    }
}

async fn load<T: DeserializeOwned>(
    store: &dyn Store,
    collection: &str,
    id: &str,
) -> Result<Option<(i64, T)>, Error> {
    let Some(Document { version, body, .. }) = store.document(collection, id).await? else {
        return Ok(None);
    };
    let value = body.read().map_err(unreadable)?;
    Ok(Some((version, value)))
}
