//! The chip's ISO 7816-4 commands (NT4H2421Gx §10.9), which phones read tags with.

use super::commands::{Answered, Chip, Reading};
use super::files::{Mode, Right};
use super::status::Status;

const APPLICATION: [u8; 7] = [0xd2, 0x76, 0x00, 0x00, 0x85, 0x01, 0x01];
const PICC: [u8; 7] = [0xd2, 0x76, 0x00, 0x00, 0x85, 0x01, 0x00];
impl Chip {
    /// An ISO command that has to succeed: class, instruction and parameters without the length.
    pub(super) fn iso(&mut self, head: &[u8], data: &[u8]) -> Option<Vec<u8>> {
        let mut command = vec![0x00];
        command.extend_from_slice(head);
        if !data.is_empty() {
            command.push(u8::try_from(data.len()).ok()?);
            command.extend_from_slice(data);
        }
        let mut answer = self.answer(&command);
        let data = answer.len().checked_sub(2)?;
        let status = answer.split_off(data);
        (status == [0x90, 0x00]).then_some(answer)
    }

    // §10.9: ISO 7816-4.

    pub(super) fn iso_command(
        &mut self,
        code: u8,
        parameters: [u8; 2],
        data: &[u8],
        expected: Option<u8>,
        reading: Reading,
    ) -> Answered {
        self.pending = None;
        match code {
            0xa4 => self.select(parameters, data),
            0xb0 => self.read_binary(parameters, data, expected, reading),
            0xd6 => self.update_binary(parameters, data),
            _ => Err(Status::ISO_INSTRUCTION),
        }
    }

    fn select(&mut self, [by, _]: [u8; 2], data: &[u8]) -> Answered {
        match by {
            0x04 => {
                if data != APPLICATION && data != PICC {
                    return Err(Status::ISO_NOT_FOUND);
                }
                self.session = None;
                self.selected = data == APPLICATION;
                self.selected_file = None;
            }
            0x00 | 0x02 => {
                let file = match data {
                    [0xe1, number @ 3..=5] if self.selected => usize::from(*number) - 3,
                    [_, _] => return Err(Status::ISO_NOT_FOUND),
                    _ => return Err(Status::ISO_WRONG_LENGTH),
                };
                self.selected_file = Some(file);
            }
            _ => return Err(Status::ISO_PARAMETERS),
        }
        Ok((Vec::new(), Status::ISO_OK))
    }

    /// The selected file and the offset of an ISO command, once it is allowed.
    fn iso_place(&self, right: Right, [p1, p2]: [u8; 2]) -> Result<(usize, usize), Status> {
        if p1 & 0x80 != 0 {
            // Short file names are not simulated.
            return Err(Status::ISO_PARAMETERS);
        }
        let file = self.selected_file.ok_or(Status::ISO_CONDITIONS)?;
        let key = self.session.as_ref().map(|session| session.key);
        match self.files[file].mode_for(right, key) {
            Ok(Mode::Plain) => Ok((file, usize::from(p1) << 8 | usize::from(p2))),
            _ => Err(Status::ISO_SECURITY),
        }
    }

    fn read_binary(
        &mut self,
        parameters: [u8; 2],
        data: &[u8],
        expected: Option<u8>,
        reading: Reading,
    ) -> Answered {
        let (true, Some(expected)) = (data.is_empty(), expected) else {
            return Err(Status::ISO_WRONG_LENGTH);
        };
        let (file, offset) = self.iso_place(Right::Read, parameters)?;
        let content = self.show(file, 0xb0, reading);
        let rest = content.get(offset..).ok_or(Status::ISO_PARAMETERS)?;
        let wanted = if expected == 0 {
            rest.len()
        } else {
            expected.into()
        };
        let part = rest.get(..wanted).ok_or(Status::ISO_WRONG_LENGTH)?;
        Ok((part.to_vec(), Status::ISO_OK))
    }

    fn update_binary(&mut self, parameters: [u8; 2], data: &[u8]) -> Answered {
        if data.is_empty() {
            return Err(Status::ISO_WRONG_LENGTH);
        }
        let (file, offset) = self.iso_place(Right::Write, parameters)?;
        self.write(file, offset, data)
            .ok_or(Status::ISO_PARAMETERS)?;
        Ok((Vec::new(), Status::ISO_OK))
    }
}
