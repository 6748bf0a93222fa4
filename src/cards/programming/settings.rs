//! How a file of the chip stands: who may read and write it, and what it mirrors
//! (NT4H2421Gx §8.2.3.3, §10.7.1).

use super::session::CommMode;

/// Who may do something with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Whoever authenticated with the key of this number, 0 to 4.
    Key(u8),
    /// Everybody.
    Free,
    /// Nobody.
    Never,
}

impl Access {
    fn nibble(self) -> u8 {
        match self {
            Self::Key(number) => number & 0x0f,
            Self::Free => 0x0e,
            Self::Never => 0x0f,
        }
    }
}

fn nibbles(high: Access, low: Access) -> u8 {
    (high.nibble() << 4) | low.nibble()
}

/// What the chip puts into the file when it is read without an authentication: its number and
/// counter, enciphered, and a signature (Secure Dynamic Messaging, NT4H2421Gx §9.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mirroring {
    /// The number of the key that enciphers number and counter (SDMMetaRead).
    pub picc_key: u8,
    /// The number of the key that signs (SDMFileRead).
    pub mac_key: u8,
    /// Who may ask for the counter (SDMCtrRet).
    pub counter_access: Access,
    /// Where the 32 digits of the number and counter begin.
    pub picc_offset: u32,
    /// Where the signed text begins; with the next one equal, nothing but number and counter is
    /// signed.
    pub mac_input_offset: u32,
    /// Where the 16 digits of the signature begin.
    pub mac_offset: u32,
}

/// How a file stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSettings {
    /// How its content travels.
    pub mode: CommMode,
    /// Who may read it.
    pub read: Access,
    /// Who may write it.
    pub write: Access,
    /// Who may do both.
    pub read_write: Access,
    /// Who may change these settings.
    pub change: Access,
    /// What it mirrors.
    pub mirroring: Option<Mirroring>,
}

impl FileSettings {
    /// The NDEF file of a chip from the factory: everybody reads and writes it.
    pub const FACTORY: Self = Self {
        mode: CommMode::Plain,
        read: Access::Free,
        write: Access::Free,
        read_write: Access::Free,
        change: Access::Key(0),
        mirroring: None,
    };

    /// The NDEF file while it is being written: everybody reads it, the master key writes it.
    pub const LOCKED: Self = Self {
        write: Access::Key(0),
        read_write: Access::Key(0),
        ..Self::FACTORY
    };

    /// The NDEF file of a bolt card: everybody reads it, the master key writes it, key 1 hides
    /// number and counter, and key 2 signs them.
    pub fn bolt_card(picc_offset: u32, mac_offset: u32) -> Self {
        Self {
            mirroring: Some(Mirroring {
                picc_key: 1,
                mac_key: 2,
                counter_access: Access::Never,
                picc_offset,
                mac_input_offset: mac_offset,
                mac_offset,
            }),
            ..Self::LOCKED
        }
    }

    /// As ChangeFileSettings takes them.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mode = match self.mode {
            CommMode::Plain => 0,
            CommMode::Mac => 1,
            CommMode::Full => 3,
        };
        let mirrors = if self.mirroring.is_some() { 0x40 } else { 0 };
        let mut bytes = vec![
            mode | mirrors,
            nibbles(self.read_write, self.change),
            nibbles(self.read, self.write),
        ];
        if let Some(mirroring) = &self.mirroring {
            // Number and counter, in ASCII.
            bytes.push(0xc1);
            bytes.push(nibbles(Access::Never, mirroring.counter_access));
            bytes.push(nibbles(
                Access::Key(mirroring.picc_key),
                Access::Key(mirroring.mac_key),
            ));
            for offset in [
                mirroring.picc_offset,
                mirroring.mac_input_offset,
                mirroring.mac_offset,
            ] {
                bytes.extend_from_slice(&offset.to_le_bytes()[..3]);
            }
        }
        bytes
    }

    /// Whether a file of `size` bytes that GetFileSettings described stands so. The description
    /// has the file's type before, and its size among what ChangeFileSettings takes.
    pub fn matches(&self, description: &[u8], size: usize) -> bool {
        let [o0, o1, o2, ..] = size.to_le_bytes();
        let mut expected = vec![0x00];
        expected.extend(self.encode());
        expected.splice(4..4, [o0, o1, o2]);
        description == expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AN12196 §5.9, and what card programmers in the field write.
    #[test]
    fn settings_as_published() {
        let published = FileSettings {
            mirroring: Some(Mirroring {
                picc_key: 2,
                mac_key: 1,
                counter_access: Access::Key(1),
                picc_offset: 0x20,
                mac_input_offset: 0x43,
                mac_offset: 0x43,
            }),
            ..FileSettings::LOCKED
        };
        assert_eq!(
            hex::encode(published.encode()),
            "4000e0c1f121200000430000430000"
        );
        assert_eq!(
            hex::encode(FileSettings::bolt_card(0x2a, 0x4d).encode()),
            "4000e0c1ff122a00004d00004d0000"
        );
        // AN12196 §5.4: the NDEF file as it comes from the factory.
        let factory = hex::decode("0000e0ee000100").unwrap();
        assert!(FileSettings::FACTORY.matches(&factory, 256));
        assert!(!FileSettings::LOCKED.matches(&factory, 256));
        assert!(!FileSettings::FACTORY.matches(&factory, 128));
        assert!(!FileSettings::FACTORY.matches(&factory[1..], 256));
        assert!(!FileSettings::FACTORY.matches(&[], 256));
    }
}
