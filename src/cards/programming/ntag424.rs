//! The commands of an NTAG 424 DNA (data sheet NT4H2421Gx, rev. 3.0), one method each.

use std::sync::Arc;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::error::ChipError;
use super::session::{CommMode, Session, Unprotected, crc32, decipher_blocks, encipher_blocks};
use super::settings::FileSettings;
use super::transport::CardTransport;
use crate::cards::boltcard::Key;
use crate::ports::Entropy;

/// The name of the NDEF application (NT4H2421Gx §8.2).
const NDEF_APPLICATION: [u8; 7] = [0xd2, 0x76, 0x00, 0x00, 0x85, 0x01, 0x01];
/// The most data that one frame reads or writes: with its header and signature it stays below
/// what any reader can send at once.
const FRAME: usize = 128;
const ISO_OK: u16 = 0x9000;
const OK: u16 = 0x9100;
const MORE: u16 = 0x91af;
const AUTHENTICATION_ERROR: u16 = 0x91ae;
const AUTHENTICATION_DELAY: u16 = 0x91ad;

/// A command of the chip, with its code (NT4H2421Gx §10.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Instruction {
    /// ISOSelectFile.
    Select = 0xa4,
    /// GetVersion.
    GetVersion = 0x60,
    /// AuthenticateEV2First.
    AuthenticateFirst = 0x71,
    /// AuthenticateEV2NonFirst.
    AuthenticateNonFirst = 0x77,
    /// GetCardUID.
    GetCardUid = 0x51,
    /// GetKeyVersion.
    GetKeyVersion = 0x64,
    /// ChangeKey.
    ChangeKey = 0xc4,
    /// GetFileSettings.
    GetFileSettings = 0xf5,
    /// ChangeFileSettings.
    ChangeFileSettings = 0x5f,
    /// ReadData.
    ReadData = 0xad,
    /// WriteData.
    WriteData = 0x8d,
}

/// The code of a further frame of a command.
const FURTHER: u8 = 0xaf;

/// What a chip says it is (NT4H2421Gx §10.5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChipVersion {
    /// The seven bytes on its hardware: vendor, type, subtype, version, size, protocol.
    pub hardware: [u8; 7],
    /// The seven bytes on its software.
    pub software: [u8; 7],
    /// Its number; zero when it is set up to hide it. Not signed: see [`Ntag424::card_uid`].
    pub uid: [u8; 7],
}

impl ChipVersion {
    /// Whether it is an NTAG 424 DNA: made by NXP, an NTAG, of the hardware that carries it.
    pub fn is_ntag_424_dna(&self) -> bool {
        matches!(self.hardware, [0x04, 0x04, _, 0x30, ..])
    }
}

/// A file of the chip (NT4H2421Gx §8.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ChipFile {
    /// The capability container, 32 bytes.
    CapabilityContainer = 1,
    /// The NDEF file, 256 bytes: what a phone reads.
    Ndef = 2,
    /// The proprietary file, 128 bytes.
    Proprietary = 3,
}

/// A chip in the field of a reader.
pub struct Ntag424 {
    transport: Arc<dyn CardTransport>,
    entropy: Arc<dyn Entropy>,
    session: Option<Session>,
}

/// What came back for a frame.
struct Answer {
    data: Zeroizing<Vec<u8>>,
    status: u16,
}

impl Ntag424 {
    /// A chip behind `transport`, with no session yet.
    pub fn new(transport: Arc<dyn CardTransport>, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            transport,
            entropy,
            session: None,
        }
    }

    /// The number of the key of the session, if there is one.
    pub fn authenticated_with(&self) -> Option<u8> {
        self.session.as_ref().map(|session| session.key_number)
    }

    /// Selects the NDEF application (ISOSelectFile by name). It ends a session.
    ///
    /// # Errors
    /// `card.chip_not_supported` when there is no such application; else as every command:
    /// `card.chip_refused`, `card.chip_answer_malformed`, and the reader's own.
    pub async fn select_application(&mut self) -> Result<(), ChipError> {
        let command = Instruction::Select;
        self.session = None;
        let mut frame = vec![0x00, command as u8, 0x04, 0x0c, 7];
        frame.extend_from_slice(&NDEF_APPLICATION);
        frame.push(0x00);
        match self.exchange(command, frame).await?.status {
            ISO_OK => Ok(()),
            0x6a82 => Err(ChipError::NotSupported),
            status => Err(ChipError::Refused { command, status }),
        }
    }

    /// Asks what the chip is (GetVersion, three frames, before an authentication).
    ///
    /// # Errors
    /// As every command.
    pub async fn version(&mut self) -> Result<ChipVersion, ChipError> {
        let command = Instruction::GetVersion;
        let hardware = self.native(command, command as u8, &[]).await?;
        accept(command, &hardware, MORE)?;
        let software = self.native(command, FURTHER, &[]).await?;
        accept(command, &software, MORE)?;
        let production = self.native(command, FURTHER, &[]).await?;
        accept(command, &production, OK)?;
        Ok(ChipVersion {
            hardware: exact(command, &hardware.data)?,
            software: exact(command, &software.data)?,
            uid: first(command, &production.data)?,
        })
    }

    /// Starts a session (AuthenticateEV2First, two frames). `false` when `key` is not the chip's
    /// key of that number: the chip has counted that.
    ///
    /// # Errors
    /// `card.chip_delayed`, `card.chip_no_entropy`, `card.chip_answer_forged` when the chip does
    /// not know the key either; else as every command.
    pub async fn authenticate_first(&mut self, number: u8, key: &Key) -> Result<bool, ChipError> {
        self.authenticate(Instruction::AuthenticateFirst, number, key)
            .await
    }

    /// Goes on with a session under another key (AuthenticateEV2NonFirst, two frames): the
    /// transaction and its counter stay. `false` as for [`Self::authenticate_first`].
    ///
    /// # Errors
    /// As for [`Self::authenticate_first`], and `card.chip_not_authenticated`.
    pub async fn authenticate_non_first(
        &mut self,
        number: u8,
        key: &Key,
    ) -> Result<bool, ChipError> {
        self.authenticate(Instruction::AuthenticateNonFirst, number, key)
            .await
    }

    async fn authenticate(
        &mut self,
        command: Instruction,
        number: u8,
        key: &Key,
    ) -> Result<bool, ChipError> {
        let before = self.session.take();
        let carried_on = match (command, &before) {
            (Instruction::AuthenticateNonFirst, None) => {
                return Err(ChipError::NotAuthenticated { command });
            }
            (Instruction::AuthenticateNonFirst, Some(before)) => {
                Some((before.transaction(), before.counter()))
            }
            _ => None,
        };
        // AuthenticateEV2First says how many bytes of the reader's capabilities follow: none.
        let asked: &[u8] = match carried_on {
            Some(_) => &[number],
            None => &[number, 0x00],
        };
        let challenge = self.native(command, command as u8, asked).await?;
        accept(command, &challenge, MORE)?;
        let random_b = decipher_blocks(key, &challenge.data).unwrap_or_default();
        let random_b = Zeroizing::new(exact::<16>(command, &random_b)?);
        let mut random_a = Zeroizing::new([0; 16]);
        self.entropy.fill(&mut *random_a)?;
        let mut proof = Zeroizing::new(Vec::with_capacity(32));
        proof.extend_from_slice(&*random_a);
        proof.extend_from_slice(&random_b[1..]);
        proof.push(random_b[0]);
        let answer = self
            .native(command, FURTHER, &encipher_blocks(key, &proof))
            .await?;
        if answer.status == AUTHENTICATION_ERROR {
            return Ok(false);
        }
        accept(command, &answer, OK)?;
        let said = decipher_blocks(key, &answer.data).unwrap_or_default();
        let (transaction, counter, rotated_a) = match carried_on {
            Some((transaction, counter)) => (transaction, counter, exact::<16>(command, &said)?),
            None => {
                // The transaction, the rotated random, and six bytes of capabilities of each.
                let said: [u8; 32] = exact(command, &said)?;
                (first(command, &said)?, 0, first(command, &said[4..])?)
            }
        };
        let mut expected = Zeroizing::new(*random_a);
        expected.rotate_left(1);
        if !bool::from(expected.ct_eq(&rotated_a)) {
            return Err(ChipError::Forged { command });
        }
        let session = Session::new(key, number, &random_a, &random_b, transaction, counter);
        self.session = Some(session);
        Ok(true)
    }

    /// The chip's own number, enciphered and signed (GetCardUID).
    ///
    /// # Errors
    /// `card.chip_not_authenticated`, `card.chip_answer_forged`; else as every command.
    pub async fn card_uid(&mut self) -> Result<[u8; 7], ChipError> {
        let command = Instruction::GetCardUid;
        let said = self.secure(command, CommMode::Full, &[], &[]).await?;
        exact(command, &said)
    }

    /// The version byte that was written with a key (GetKeyVersion).
    ///
    /// # Errors
    /// As for [`Self::card_uid`].
    pub async fn key_version(&mut self, number: u8) -> Result<u8, ChipError> {
        let command = Instruction::GetKeyVersion;
        let said = self.secure(command, CommMode::Mac, &[number], &[]).await?;
        let [version] = exact(command, &said)?;
        Ok(version)
    }

    /// Writes a key (ChangeKey), under a session of key 0. For a key other than that of the
    /// session the chip is given the difference to the old key and a checksum of the new one:
    /// `false` when `old` is not what it holds, and the session is over. The session's own key
    /// takes no old one, and the session ends with it.
    ///
    /// # Errors
    /// As for [`Self::card_uid`].
    pub async fn change_key(
        &mut self,
        number: u8,
        old: &Key,
        new: &Key,
        version: u8,
    ) -> Result<bool, ChipError> {
        let command = Instruction::ChangeKey;
        let own = self.authenticated_with() == Some(number);
        // In one piece, as a vector that grows leaves its content behind.
        let mut data = Zeroizing::new(Vec::with_capacity(new.bytes().len() + 5));
        data.extend_from_slice(new.bytes());
        if !own {
            for (byte, old) in data.iter_mut().zip(old.bytes()) {
                *byte ^= old;
            }
        }
        data.push(version);
        if !own {
            data.extend_from_slice(&crc32(new.bytes()));
        }
        let answer = self.send(command, CommMode::Full, &[number], &data).await?;
        if answer.status == 0x911e && !own {
            self.session = None;
            return Ok(false);
        }
        if own {
            // The keys that would sign the answer are gone with the key.
            self.session = None;
            accept(command, &answer, OK)?;
            return Ok(true);
        }
        self.receive(command, CommMode::Full, &answer)?;
        Ok(true)
    }

    /// How a file stands (GetFileSettings), in the form that [`FileSettings::matches`] compares.
    ///
    /// # Errors
    /// As for [`Self::card_uid`].
    pub async fn file_settings(&mut self, file: ChipFile) -> Result<Vec<u8>, ChipError> {
        let command = Instruction::GetFileSettings;
        let said = self
            .secure(command, CommMode::Mac, &[file as u8], &[])
            .await?;
        Ok(said.to_vec())
    }

    /// Changes how a file stands (ChangeFileSettings).
    ///
    /// # Errors
    /// As for [`Self::card_uid`].
    pub async fn change_file_settings(
        &mut self,
        file: ChipFile,
        settings: &FileSettings,
    ) -> Result<(), ChipError> {
        let command = Instruction::ChangeFileSettings;
        let data = settings.encode();
        self.secure(command, CommMode::Full, &[file as u8], &data)
            .await
            .map(drop)
    }

    /// Reads `length` bytes of a file from `offset` on (ReadData). Before an authentication the
    /// chip puts its mirrors in and counts a tap; in a session it shows what was written.
    ///
    /// # Errors
    /// As every command, and those of the session if there is one.
    pub async fn read_data(
        &mut self,
        mode: CommMode,
        file: ChipFile,
        offset: usize,
        length: usize,
    ) -> Result<Vec<u8>, ChipError> {
        let command = Instruction::ReadData;
        let mut content = Vec::with_capacity(length);
        while content.len() < length {
            let wanted = (length - content.len()).min(FRAME);
            let header = place(file, offset + content.len(), wanted);
            let said = self.secure(command, mode, &header, &[]).await?;
            if said.len() != wanted {
                return Err(ChipError::Malformed {
                    command,
                    reason: "another length than was asked for",
                });
            }
            content.extend_from_slice(&said);
        }
        Ok(content)
    }

    /// Writes a file from `offset` on (WriteData), in frames of at most 128 bytes.
    ///
    /// # Errors
    /// As for [`Self::read_data`].
    pub async fn write_data(
        &mut self,
        mode: CommMode,
        file: ChipFile,
        offset: usize,
        data: &[u8],
    ) -> Result<(), ChipError> {
        for (index, part) in data.chunks(FRAME).enumerate() {
            let header = place(file, offset + index * FRAME, part.len());
            self.secure(Instruction::WriteData, mode, &header, part)
                .await?;
        }
        Ok(())
    }

    /// One command in the session, or outside of one when it is a plain one.
    async fn secure(
        &mut self,
        command: Instruction,
        mode: CommMode,
        header: &[u8],
        data: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, ChipError> {
        let answer = self.send(command, mode, header, data).await?;
        self.receive(command, mode, &answer)
    }

    async fn send(
        &mut self,
        command: Instruction,
        mode: CommMode,
        header: &[u8],
        data: &[u8],
    ) -> Result<Answer, ChipError> {
        let field = match (&mut self.session, mode) {
            (Some(session), _) => {
                let field = session.protect(mode, command as u8, header, data);
                session.count();
                field
            }
            (None, CommMode::Plain) => [header, data].concat(),
            (None, _) => return Err(ChipError::NotAuthenticated { command }),
        };
        self.native(command, command as u8, &field).await
    }

    fn receive(
        &mut self,
        command: Instruction,
        mode: CommMode,
        answer: &Answer,
    ) -> Result<Zeroizing<Vec<u8>>, ChipError> {
        let taken = accept(command, answer, OK).and_then(|()| match &self.session {
            Some(session) => session
                .unprotect(mode, &answer.data)
                .map_err(|why| match why {
                    Unprotected::Mac => ChipError::Forged { command },
                    Unprotected::Length => ChipError::Malformed {
                        command,
                        reason: "no whole blocks with a signature",
                    },
                    Unprotected::Padding => ChipError::Malformed {
                        command,
                        reason: "a text that is not padded",
                    },
                }),
            None => Ok(answer.data.clone()),
        });
        if taken.is_err() {
            // A chip that refused has dropped its session; one whose answer was not its own is
            // not spoken to any further.
            self.session = None;
        }
        taken
    }

    /// One frame in the chip's own form, wrapped as ISO 7816-4 has it (NT4H2421Gx §8.4).
    async fn native(
        &mut self,
        command: Instruction,
        code: u8,
        field: &[u8],
    ) -> Result<Answer, ChipError> {
        let mut frame = vec![0x90, code, 0x00, 0x00];
        if !field.is_empty() {
            let length = u8::try_from(field.len()).map_err(|_| ChipError::Malformed {
                command,
                reason: "longer than one frame",
            })?;
            frame.push(length);
            frame.extend_from_slice(field);
        }
        frame.push(0x00);
        self.exchange(command, frame).await
    }

    async fn exchange(
        &mut self,
        command: Instruction,
        frame: Vec<u8>,
    ) -> Result<Answer, ChipError> {
        let answer = self.transport.transceive(frame).await;
        let mut data = match answer {
            Ok(data) => Zeroizing::new(data),
            Err(error) => {
                // Whether the chip has counted the command is not known.
                self.session = None;
                return Err(error.into());
            }
        };
        let (Some(low), Some(high)) = (data.pop(), data.pop()) else {
            return Err(ChipError::Malformed {
                command,
                reason: "no status",
            });
        };
        let status = u16::from_be_bytes([high, low]);
        Ok(Answer { data, status })
    }
}

fn accept(command: Instruction, answer: &Answer, wanted: u16) -> Result<(), ChipError> {
    match answer.status {
        status if status == wanted => Ok(()),
        AUTHENTICATION_DELAY => Err(ChipError::Delayed),
        status => Err(ChipError::Refused { command, status }),
    }
}

fn exact<const N: usize>(command: Instruction, data: &[u8]) -> Result<[u8; N], ChipError> {
    data.try_into().map_err(|_| ChipError::Malformed {
        command,
        reason: "another length than the data sheet's",
    })
}

fn first<const N: usize>(command: Instruction, data: &[u8]) -> Result<[u8; N], ChipError> {
    data.first_chunk().copied().ok_or(ChipError::Malformed {
        command,
        reason: "shorter than the data sheet's",
    })
}

/// File, offset and length, three bytes each, lowest first.
fn place(file: ChipFile, offset: usize, length: usize) -> [u8; 7] {
    let ([o0, o1, o2, ..], [l0, l1, l2, ..]) = (offset.to_le_bytes(), length.to_le_bytes());
    [file as u8, o0, o1, o2, l0, l1, l2]
}
