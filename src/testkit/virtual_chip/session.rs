//! The chip's sessions: authentication (NT4H2421Gx §10.4) and secure messaging (§9.1).

use super::commands::{Answered, Chip, Pending};
use super::crypto::{
    Block, cbc_decrypt, cbc_encrypt, cmac, encrypt, pad, session_keys, short, unpad,
};
use super::files::Mode;
use super::status::Status;

/// So many failures in a row make the next authentication wait.
const FAILURES_BEFORE_DELAY: u32 = 50;
/// How often it is then refused.
const DELAY: u32 = 4;

/// What a session knows.
pub(super) struct Session {
    pub(super) key: usize,
    enciphering: Block,
    signing: Block,
    transaction: [u8; 4],
    counter: u16,
}

impl Chip {
    // Secure messaging (§9.1).

    fn mac(session: &Session, first: u8, data: &[u8]) -> [u8; 8] {
        let mut text = vec![first];
        text.extend_from_slice(&session.counter.to_le_bytes());
        text.extend_from_slice(&session.transaction);
        text.extend_from_slice(data);
        short(&cmac(&session.signing, &text))
    }

    fn vector(session: &Session, label: u16) -> Block {
        let mut text = label.to_be_bytes().to_vec();
        text.extend_from_slice(&session.transaction);
        text.extend_from_slice(&session.counter.to_le_bytes());
        text.resize(16, 0);
        let text = std::array::from_fn(|at| text[at]);
        encrypt(&session.enciphering, &text)
    }

    /// Checks a command of `header` clear bytes and gives them with its data, in clear. Outside of
    /// a session everything is in clear.
    pub(super) fn open(
        &mut self,
        mode: Mode,
        code: u8,
        header: usize,
        data: &[u8],
    ) -> Result<(Vec<u8>, Vec<u8>), Status> {
        let Some(session) = &mut self.session else {
            let (header, data) = data.split_at_checked(header).ok_or(Status::LENGTH_ERROR)?;
            return Ok((header.to_vec(), data.to_vec()));
        };
        let signed = match mode {
            Mode::Plain => data,
            _ => {
                let at = data.len().checked_sub(8).ok_or(Status::LENGTH_ERROR)?;
                let (signed, mac) = data.split_at(at);
                if signed.len() < header {
                    return Err(Status::LENGTH_ERROR);
                }
                if Self::mac(session, code, signed) != mac {
                    return Err(Status::INTEGRITY_ERROR);
                }
                signed
            }
        };
        let (header, data) = signed
            .split_at_checked(header)
            .ok_or(Status::LENGTH_ERROR)?;
        let clear = if mode == Mode::Enciphered && !data.is_empty() {
            if !data.len().is_multiple_of(16) {
                return Err(Status::LENGTH_ERROR);
            }
            let vector = Self::vector(session, 0xa55a);
            let clear = cbc_decrypt(&session.enciphering, vector, data);
            unpad(clear).ok_or(Status::INTEGRITY_ERROR)?
        } else {
            data.to_vec()
        };
        // A session has no number for a command after the last.
        session.counter = session
            .counter
            .checked_add(1)
            .ok_or(Status::PERMISSION_DENIED)?;
        Ok((header.to_vec(), clear))
    }

    /// Protects an answer.
    pub(super) fn close(&self, mode: Mode, data: &[u8]) -> Answered {
        let Some(session) = self.session.as_ref().filter(|_| mode != Mode::Plain) else {
            return Ok((data.to_vec(), Status::OK));
        };
        let mut answer = if mode == Mode::Enciphered && !data.is_empty() {
            let vector = Self::vector(session, 0x5aa5);
            cbc_encrypt(&session.enciphering, vector, &pad(data))
        } else {
            data.to_vec()
        };
        answer.extend_from_slice(&Self::mac(session, 0x00, &answer));
        Ok((answer, Status::OK))
    }

    pub(super) fn session_key(&self) -> Result<usize, Status> {
        let session = self.session.as_ref();
        session
            .map(|session| session.key)
            .ok_or(Status::AUTHENTICATION_ERROR)
    }

    // §10.4: authentication.

    pub(super) fn authenticate(&mut self, data: &[u8], first: bool) -> Answered {
        let key = match data {
            [key, capabilities, rest @ ..] if first => {
                if rest.len() != usize::from(*capabilities) || rest.len() > 6 {
                    return Err(Status::LENGTH_ERROR);
                }
                *key
            }
            [key] if !first => *key,
            _ => return Err(Status::LENGTH_ERROR),
        };
        let key = usize::from(key);
        if key > 4 {
            return Err(Status::NO_SUCH_KEY);
        }
        if first {
            self.session = None;
        } else {
            self.session_key()?;
        }
        if self.delay > 0 {
            self.delay -= 1;
            return Err(Status::AUTHENTICATION_DELAY);
        }
        let random = self.random();
        self.pending = Some(Pending::Authentication { key, random, first });
        let hidden = cbc_encrypt(&self.keys[key], [0; 16], &random);
        Ok((hidden, Status::ADDITIONAL_FRAME))
    }

    pub(super) fn further_frame(&mut self, data: &[u8]) -> Answered {
        match self.pending.take() {
            None => Err(Status::ILLEGAL_COMMAND),
            Some(Pending::Version { next, signed }) => self.version_part(next, signed, data),
            Some(Pending::Authentication { key, random, first }) => {
                self.authenticated(key, random, first, data)
            }
        }
    }

    fn authenticated(&mut self, key: usize, random: Block, first: bool, data: &[u8]) -> Answered {
        if data.len() != 32 {
            return Err(Status::LENGTH_ERROR);
        }
        let said = cbc_decrypt(&self.keys[key], [0; 16], data);
        let (theirs, ours) = said.split_at(16);
        let theirs: Block = std::array::from_fn(|at| theirs[at]);
        let turned = u128::from_be_bytes(random).rotate_left(8).to_be_bytes();
        if ours != turned {
            self.failed += 1;
            self.failed_in_a_row += 1;
            if self.failed_in_a_row >= FAILURES_BEFORE_DELAY {
                self.delay = DELAY;
            }
            return Err(Status::AUTHENTICATION_ERROR);
        }
        self.failed_in_a_row = 0;
        let before = self.session.take().filter(|_| !first);
        let (transaction, counter) = match before {
            Some(session) => (session.transaction, session.counter),
            None => {
                let fresh = self.random();
                (std::array::from_fn(|at| fresh[at]), 0)
            }
        };
        let (enciphering, signing) = session_keys(&self.keys[key], &theirs, &random);
        self.session = Some(Session {
            key,
            enciphering,
            signing,
            transaction,
            counter,
        });
        let turned = u128::from_be_bytes(theirs).rotate_left(8).to_be_bytes();
        let proof = if first {
            [&transaction[..], &turned, &[0; 12]].concat()
        } else {
            turned.to_vec()
        };
        let hidden = cbc_encrypt(&self.keys[key], [0; 16], &proof);
        Ok((hidden, Status::OK))
    }
}
