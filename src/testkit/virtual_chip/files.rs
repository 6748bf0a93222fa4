//! The chip's three files: their settings, their rights, and what they mirror when they are read
//! (NT4H2421Gx §8.2.3, §9.3, §10.7).

use super::crypto::{Block, cbc_encrypt, cmac, short};
use super::status::Status;

const FREE: u8 = 0x0e;
const NEVER: u8 = 0x0f;

/// Secure Dynamic Messaging with an enciphered number and counter. A plain one, enciphered file
/// data and a limit to the counter are not simulated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mirror {
    meta_key: usize,
    file_key: usize,
    picc_at: usize,
    input_at: usize,
    mac_at: usize,
    /// As it was set, to be shown as it was set.
    raw: Vec<u8>,
}

/// A file.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) content: Vec<u8>,
    option: u8,
    rights: [u8; 2],
    mirror: Option<Mirror>,
    /// How often it was read with its mirrors on; 24 bits.
    pub(super) reads: u32,
}

/// What someone wants to do with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    Read,
    Write,
}

/// How data travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Plain,
    Signed,
    Enciphered,
}

impl File {
    /// The three files as they come from the factory.
    pub(super) fn factory() -> [Self; 3] {
        let file = |size: usize, head: &[u8], option, rights| {
            let mut content = vec![0; size];
            content[..head.len()].copy_from_slice(head);
            Self {
                content,
                option,
                rights,
                mirror: None,
                reads: 0,
            }
        };
        let container = [
            0x00, 0x17, 0x20, 0x01, 0x00, 0x00, 0xff, 0x04, 0x06, 0xe1, 0x04, 0x01, 0x00, 0x00,
            0x00, 0x05, 0x06, 0xe1, 0x05, 0x00, 0x80, 0x82, 0x83,
        ];
        [
            file(32, &container, 0x00, [0x00, 0xe0]),
            file(256, &[], 0x00, [0xe0, 0xee]),
            file(128, &[0x00, 0x7e], 0x03, [0x30, 0x23]),
        ]
    }

    /// Who may change the settings.
    fn changer(&self) -> u8 {
        self.rights[0] & 0x0f
    }

    /// Whether a session of this key may change the settings.
    pub(super) fn may_change(&self, key: usize) -> Result<(), Status> {
        match self.changer() {
            NEVER => Err(Status::PERMISSION_DENIED),
            FREE => Ok(()),
            changer if usize::from(changer) == key => Ok(()),
            _ => Err(Status::AUTHENTICATION_ERROR),
        }
    }

    /// How data travels for someone in a session of this key, or in none.
    pub(super) fn mode_for(&self, right: Right, key: Option<usize>) -> Result<Mode, Status> {
        let own = match right {
            Right::Read => self.rights[1] >> 4,
            Right::Write => self.rights[1] & 0x0f,
        };
        let either = [own, self.rights[0] >> 4];
        if key.is_some_and(|key| either.iter().any(|holder| usize::from(*holder) == key)) {
            return Ok(match self.option & 0x03 {
                0x01 => Mode::Signed,
                0x03 => Mode::Enciphered,
                _ => Mode::Plain,
            });
        }
        if either.contains(&FREE) {
            return Ok(Mode::Plain);
        }
        if either == [NEVER; 2] {
            return Err(Status::PERMISSION_DENIED);
        }
        Err(Status::AUTHENTICATION_ERROR)
    }

    /// As GetFileSettings shows it.
    pub(super) fn describe(&self) -> Vec<u8> {
        let mut shown = vec![0x00, self.option, self.rights[0], self.rights[1]];
        shown.extend_from_slice(&self.content.len().to_le_bytes()[..3]);
        if let Some(mirror) = &self.mirror {
            shown.extend_from_slice(&mirror.raw);
        }
        shown
    }

    /// As ChangeFileSettings sets it. `mirrors` says whether the file can have any.
    pub(super) fn set(&mut self, settings: &[u8], mirrors: bool) -> Result<(), Status> {
        let [option, low, high, raw @ ..] = settings else {
            return Err(Status::LENGTH_ERROR);
        };
        let strange = |nibble: u8| (0x05..FREE).contains(&nibble);
        let holders = [low >> 4, low & 0x0f, high >> 4, high & 0x0f];
        if option & 0xbc != 0 || holders.into_iter().any(strange) {
            return Err(Status::PARAMETER_ERROR);
        }
        let mirror = match option & 0x40 {
            0 if raw.is_empty() => None,
            0 => return Err(Status::LENGTH_ERROR),
            _ if !mirrors => return Err(Status::PARAMETER_ERROR),
            _ => Some(Mirror::parse(raw, self.content.len())?),
        };
        if mirror.is_some() {
            self.reads = 0;
        }
        (self.option, self.rights, self.mirror) = (*option, [*low, *high], mirror);
        Ok(())
    }

    /// Whether reading it outside of a session counts.
    pub(super) fn has_mirrors(&self) -> bool {
        self.mirror.is_some()
    }

    /// The content as it is shown outside of a session.
    pub(super) fn mirrored(&self, uid: &[u8; 7], keys: &[Block; 5], filling: &Block) -> Vec<u8> {
        let mut shown = self.content.clone();
        let Some(mirror) = &self.mirror else {
            return shown;
        };
        let reads = &self.reads.to_le_bytes()[..3];
        let plain = [&[0xc7], &uid[..], reads, &filling[..5]].concat();
        let hidden = cbc_encrypt(&keys[mirror.meta_key], [0; 16], &plain);
        put(&mut shown, mirror.picc_at, &hidden);
        let context = [&[0x3c, 0xc3, 0x00, 0x01, 0x00, 0x80], &uid[..], reads].concat();
        let signing = cmac(&keys[mirror.file_key], &context);
        let mac = cmac(&signing, &shown[mirror.input_at..mirror.mac_at]);
        put(&mut shown, mirror.mac_at, &short(&mac));
        shown
    }
}

/// Upper-case hex digits, as the chip writes them.
fn put(shown: &mut [u8], at: usize, bytes: &[u8]) {
    let digits = hex::encode_upper(bytes).into_bytes();
    shown[at..at + digits.len()].copy_from_slice(&digits);
}

impl Mirror {
    fn parse(raw: &[u8], size: usize) -> Result<Self, Status> {
        let [options, access @ .., _, _, _, _, _, _, _, _, _] = raw else {
            return Err(Status::LENGTH_ERROR);
        };
        let [counter, keys] = access else {
            return Err(Status::LENGTH_ERROR);
        };
        let (meta, file) = (keys >> 4, keys & 0x0f);
        let counter_holder = counter & 0x0f;
        if *options != 0xc1
            || meta > 4
            || file > 4
            || counter >> 4 != NEVER
            || (0x05..FREE).contains(&counter_holder)
        {
            return Err(Status::PARAMETER_ERROR);
        }
        let offset = |at: usize| {
            let [low, middle, high] = [raw[at], raw[at + 1], raw[at + 2]].map(usize::from);
            low | middle << 8 | high << 16
        };
        let (picc_at, input_at, mac_at) = (offset(3), offset(6), offset(9));
        let apart = picc_at + 32 <= mac_at || mac_at + 16 <= picc_at;
        if picc_at + 32 > size || mac_at + 16 > size || input_at > mac_at || !apart {
            return Err(Status::PARAMETER_ERROR);
        }
        Ok(Self {
            meta_key: meta.into(),
            file_key: file.into(),
            picc_at,
            input_at,
            mac_at,
            raw: raw.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(uid: &str, reads: u32, settings: &str, text: &str) -> String {
        let mut file = File::factory()[1].clone();
        file.content[..text.len()].copy_from_slice(text.as_bytes());
        file.set(&hex::decode(settings).unwrap(), true).unwrap();
        file.reads = reads;
        let mut number = [0; 7];
        hex::decode_to_slice(uid, &mut number).unwrap();
        let filling: Block = *b"\xda\x5c\xf6\x09\x41 and more..";
        let mut shown = file.mirrored(&number, &[[0; 16]; 5], &filling);
        shown.truncate(text.len());
        String::from_utf8(shown).unwrap()
    }

    /// AN12196 §3.4.2.2 and §3.4.4.2.1: number, counter, filling and signature, to the byte.
    #[test]
    fn mirrors_as_published() {
        let text = format!("?e={}&c={}", "0".repeat(32), "0".repeat(16));
        assert_eq!(
            shown(
                "04DE5F1EACC040",
                61,
                "4000e0c1ff00030000260000260000",
                &text
            ),
            "?e=EF963FF7828658A599F3041510671E88&c=94EED9EE65337086"
        );
    }

    /// AN12196 §3.4.4.2.2: what stands before the signature is signed with it.
    #[test]
    fn a_signature_over_text_as_published() {
        let data = "CEE9A53E3E463EF1F459635736738962&cmac=";
        let text = format!("{}{data}{}", "0".repeat(32), "0".repeat(16));
        let shown = shown("04958CAA5C5E80", 8, "4000e0c1ff00000000200000460000", &text);
        assert_eq!(&shown[32..], format!("{data}ECC1E7F6C6C73BF6"));
    }
}
