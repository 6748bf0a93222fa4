//! The chip's commands (NT4H2421Gx §10), each with the refusals the data sheet lists for it.

use super::PowerLoss;
use super::crypto::{Block, encrypt, key_checksum};
use super::files::{File, Mode, Right};
use super::session::Session;
use super::status::Status;

/// A command that goes on in the next frame.
pub(super) enum Pending {
    Version {
        next: usize,
        signed: bool,
    },
    Authentication {
        key: usize,
        random: Block,
        first: bool,
    },
}

/// The file and command of the read before, and what it showed: the same read goes on with it.
pub(super) type Reading = Option<(usize, u8, Vec<u8>)>;

/// The chip's memory, lasting and volatile.
pub(super) struct Chip {
    uid: [u8; 7],
    pub(super) hides_uid: bool,
    pub(super) keys: [Block; 5],
    pub(super) versions: [u8; 5],
    pub(super) files: [File; 3],
    pub(super) failed: u32,
    pub(super) failed_in_a_row: u32,
    pub(super) delay: u32,
    seed: u64,
    drawn: u64,

    pub(super) frames: u64,
    pub(super) power_loss: Option<(u64, PowerLoss)>,
    pub(super) dead: bool,
    tearing: bool,

    pub(super) session: Option<Session>,
    pub(super) pending: Option<Pending>,
    pub(super) selected: bool,
    pub(super) selected_file: Option<usize>,
    reading: Reading,
}

pub(super) type Answered = Result<(Vec<u8>, Status), Status>;

impl Chip {
    pub(super) fn new(uid: [u8; 7], seed: u64) -> Self {
        Self {
            uid,
            hides_uid: false,
            keys: [[0; 16]; 5],
            versions: [0; 5],
            files: File::factory(),
            failed: 0,
            failed_in_a_row: 0,
            delay: 0,
            seed,
            drawn: 0,
            frames: 0,
            power_loss: None,
            dead: false,
            tearing: false,
            session: None,
            pending: None,
            selected: false,
            selected_file: None,
            reading: None,
        }
    }

    pub(super) fn power_on(&mut self) {
        self.dead = false;
        self.tearing = false;
        self.session = None;
        self.pending = None;
        self.selected = false;
        self.selected_file = None;
        self.reading = None;
    }

    /// One frame; `None` without power.
    pub(super) fn frame(&mut self, command: &[u8]) -> Option<Vec<u8>> {
        if self.dead {
            return None;
        }
        self.frames += 1;
        let lost = match &mut self.power_loss {
            Some((1, when)) => Some(*when),
            Some((frames, _)) => {
                *frames -= 1;
                None
            }
            None => None,
        };
        self.tearing = lost == Some(PowerLoss::During);
        let writes = matches!(command, [0x90, 0x8d, ..] | [0x00, 0xd6, ..]);
        let takes_effect = match lost {
            None | Some(PowerLoss::After) => true,
            Some(PowerLoss::During) => writes,
            Some(PowerLoss::Before) => false,
        };
        let answer = takes_effect.then(|| self.answer(command));
        if lost.is_some() {
            self.power_loss = None;
            self.power_on();
            self.dead = true;
            return None;
        }
        answer
    }

    pub(super) fn answer(&mut self, command: &[u8]) -> Vec<u8> {
        let (mut data, status) = match self.dispatch(command) {
            Ok(answered) => answered,
            Err(status) => {
                // Any error ends what was going on.
                self.session = None;
                self.pending = None;
                (Vec::new(), status)
            }
        };
        data.extend_from_slice(&status.0.to_be_bytes());
        data
    }

    fn dispatch(&mut self, command: &[u8]) -> Answered {
        let [class, code, p1, p2, rest @ ..] = command else {
            return Err(Status::ISO_WRONG_LENGTH);
        };
        let (data, expected) = match rest {
            [] => (&[][..], None),
            [expected] => (&[][..], Some(*expected)),
            [length, rest @ ..] => match rest.split_at_checked((*length).into()) {
                Some((data, [])) => (data, None),
                Some((data, [expected])) => (data, Some(*expected)),
                _ if *class == 0x90 => return Err(Status::LENGTH_ERROR),
                _ => return Err(Status::ISO_WRONG_LENGTH),
            },
        };
        let reading = self.reading.take();
        match class {
            0x00 => self.iso_command(*code, [*p1, *p2], data, expected, reading),
            0x90 if expected != Some(0) => Err(Status::LENGTH_ERROR),
            0x90 if [*p1, *p2] != [0, 0] => Err(Status::PARAMETER_ERROR),
            0x90 => self.native_command(*code, data, reading),
            _ => Err(Status::ISO_CLASS),
        }
    }

    fn native_command(&mut self, code: u8, data: &[u8], reading: Reading) -> Answered {
        if self.pending.is_some() && code != 0xaf {
            return Err(Status::COMMAND_ABORTED);
        }
        match code {
            0x60 => self.get_version(data),
            0xaf => self.further_frame(data),
            _ if !self.selected => Err(match code {
                0x71 => Status::NO_SUCH_KEY,
                0x51 | 0x64 | 0xc4 | 0xf5 | 0x5f | 0xad | 0x8d | 0x77 => Status::PERMISSION_DENIED,
                _ => Status::ILLEGAL_COMMAND,
            }),
            0x71 => self.authenticate(data, true),
            0x77 => self.authenticate(data, false),
            0x51 => self.get_card_uid(data),
            0x64 => self.get_key_version(data),
            0xc4 => self.change_key(data),
            0xf5 => self.get_file_settings(data),
            0x5f => self.change_file_settings(data),
            0xad => self.read_data(data, reading),
            0x8d => self.write_data(data),
            _ => Err(Status::ILLEGAL_COMMAND),
        }
    }

    pub(super) fn random(&mut self) -> Block {
        self.drawn += 1;
        let number = u128::from(self.seed) << 64 | u128::from(self.drawn);
        encrypt(&[0x5e; 16], &number.to_be_bytes())
    }

    // §10.5: the chip itself.

    fn get_version(&mut self, data: &[u8]) -> Answered {
        let signed = self.session.is_some();
        let (header, rest) = self.open(Mode::Signed, 0x60, 0, data)?;
        if !header.is_empty() || !rest.is_empty() {
            return Err(Status::LENGTH_ERROR);
        }
        self.version_part(0, signed, &[])
    }

    pub(super) fn version_part(&mut self, part: usize, signed: bool, data: &[u8]) -> Answered {
        if !data.is_empty() {
            return Err(Status::LENGTH_ERROR);
        }
        let hardware = vec![0x04, 0x04, 0x02, 0x30, 0x00, 0x11, 0x05];
        let software = vec![0x04, 0x04, 0x02, 0x01, 0x02, 0x11, 0x05];
        let shown = if self.hides_uid { [0; 7] } else { self.uid };
        let production = [&shown[..], &[0xcf, 0x39, 0xd4, 0x49, 0x80, 0x34, 0x20]].concat();
        match part {
            0 | 1 => {
                let next = part + 1;
                self.pending = Some(Pending::Version { next, signed });
                let said = if part == 0 { hardware } else { software };
                Ok((said, Status::ADDITIONAL_FRAME))
            }
            _ => {
                let all = [hardware, software, production].concat();
                let mode = if signed { Mode::Signed } else { Mode::Plain };
                let (answer, status) = self.close(mode, &all)?;
                Ok((answer[14..].to_vec(), status))
            }
        }
    }

    fn get_card_uid(&mut self, data: &[u8]) -> Answered {
        self.session_key()?;
        let (_, rest) = self.open(Mode::Enciphered, 0x51, 0, data)?;
        if !rest.is_empty() {
            return Err(Status::LENGTH_ERROR);
        }
        self.close(Mode::Enciphered, &self.uid)
    }

    // §10.6: keys.

    fn get_key_version(&mut self, data: &[u8]) -> Answered {
        self.session_key()?;
        let (header, rest) = self.open(Mode::Signed, 0x64, 1, data)?;
        if !rest.is_empty() {
            return Err(Status::LENGTH_ERROR);
        }
        let version = self.versions.get(usize::from(header[0]));
        self.close(Mode::Signed, &[*version.ok_or(Status::NO_SUCH_KEY)?])
    }

    fn change_key(&mut self, data: &[u8]) -> Answered {
        if self.session_key()? != 0 {
            return Err(Status::AUTHENTICATION_ERROR);
        }
        if data.len() != 41 {
            return Err(Status::LENGTH_ERROR);
        }
        let number = usize::from(data[0]);
        if number > 4 {
            return Err(Status::NO_SUCH_KEY);
        }
        let (_, said) = self.open(Mode::Enciphered, 0xc4, 1, data)?;
        let mut key: Block = *said.first_chunk().ok_or(Status::INTEGRITY_ERROR)?;
        let version = *said.get(16).ok_or(Status::INTEGRITY_ERROR)?;
        if number == 0 {
            if said.len() != 17 {
                return Err(Status::INTEGRITY_ERROR);
            }
            (self.keys[0], self.versions[0]) = (key, version);
            self.session = None;
            return Ok((Vec::new(), Status::OK));
        }
        for (byte, old) in key.iter_mut().zip(self.keys[number]) {
            *byte ^= old;
        }
        if said[17..] != key_checksum(&key).to_le_bytes() {
            return Err(Status::INTEGRITY_ERROR);
        }
        (self.keys[number], self.versions[number]) = (key, version);
        self.close(Mode::Enciphered, &[])
    }

    // §10.7, §10.8: files.

    fn file_number(number: u8) -> Result<usize, Status> {
        match number {
            1..=3 => Ok(usize::from(number) - 1),
            4..=0x1f | 0 => Err(Status::FILE_NOT_FOUND),
            _ => Err(Status::PARAMETER_ERROR),
        }
    }

    fn get_file_settings(&mut self, data: &[u8]) -> Answered {
        let (header, rest) = self.open(Mode::Signed, 0xf5, 1, data)?;
        if !rest.is_empty() {
            return Err(Status::LENGTH_ERROR);
        }
        let file = Self::file_number(header[0])?;
        self.close(Mode::Signed, &self.files[file].describe())
    }

    fn change_file_settings(&mut self, data: &[u8]) -> Answered {
        let key = self.session_key()?;
        let (header, settings) = self.open(Mode::Enciphered, 0x5f, 1, data)?;
        let file = Self::file_number(header[0])?;
        self.files[file].may_change(key)?;
        self.files[file].set(&settings, file == 1)?;
        self.close(Mode::Enciphered, &[])
    }

    /// File, offset and length of a read or a write.
    fn place(header: &[u8]) -> Result<(usize, usize, usize), Status> {
        let [file, a, b, c, d, e, f] = header else {
            return Err(Status::LENGTH_ERROR);
        };
        let number = |low: &u8, middle: &u8, high: &u8| {
            usize::from(*low) | usize::from(*middle) << 8 | usize::from(*high) << 16
        };
        Ok((Self::file_number(*file)?, number(a, b, c), number(d, e, f)))
    }

    fn read_data(&mut self, data: &[u8], reading: Reading) -> Answered {
        let (file, ..) = Self::place(data.get(..7).ok_or(Status::LENGTH_ERROR)?)?;
        let key = self.session.as_ref().map(|session| session.key);
        let mode = self.files[file].mode_for(Right::Read, key)?;
        let (header, rest) = self.open(mode, 0xad, 7, data)?;
        if !rest.is_empty() {
            return Err(Status::LENGTH_ERROR);
        }
        let (_, offset, length) = Self::place(&header)?;
        let content = self.show(file, 0xad, reading);
        let rest = content.get(offset..).ok_or(Status::BOUNDARY_ERROR)?;
        let length = if length == 0 { rest.len() } else { length };
        let part = rest.get(..length).ok_or(Status::BOUNDARY_ERROR)?;
        self.close(mode, part)
    }

    /// A file as it is read now: with its mirrors outside of a session, which counts once for any
    /// row of the same reads.
    pub(super) fn show(&mut self, file: usize, code: u8, reading: Reading) -> Vec<u8> {
        if self.session.is_some() || !self.files[file].has_mirrors() {
            return self.files[file].content.clone();
        }
        let shown = match reading {
            Some((before, by, shown)) if before == file && by == code => shown,
            _ => {
                let reads = &mut self.files[file].reads;
                *reads = (*reads + 1) & 0x00ff_ffff;
                let filling = self.random();
                self.files[file].mirrored(&self.uid, &self.keys, &filling)
            }
        };
        self.reading = Some((file, code, shown.clone()));
        shown
    }

    fn write_data(&mut self, data: &[u8]) -> Answered {
        let (file, offset, length) = Self::place(data.get(..7).ok_or(Status::LENGTH_ERROR)?)?;
        let key = self.session.as_ref().map(|session| session.key);
        let mode = self.files[file].mode_for(Right::Write, key)?;
        let (_, written) = self.open(mode, 0x8d, 7, data)?;
        if written.len() != length {
            return Err(Status::LENGTH_ERROR);
        }
        self.write(file, offset, &written)
            .ok_or(Status::BOUNDARY_ERROR)?;
        self.close(mode, &[])
    }

    pub(super) fn write(&mut self, file: usize, offset: usize, data: &[u8]) -> Option<()> {
        let content = &mut self.files[file].content;
        let place = content.get_mut(offset..offset + data.len())?;
        let reached = if self.tearing {
            data.len() / 2
        } else {
            data.len()
        };
        place[..reached].copy_from_slice(&data[..reached]);
        Some(())
    }
}
