//! What the chip answers beside data.

/// SW1 and SW2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status(pub(super) u16);

impl Status {
    pub(super) const OK: Self = Self(0x9100);
    pub(super) const ADDITIONAL_FRAME: Self = Self(0x91af);
    pub(super) const ILLEGAL_COMMAND: Self = Self(0x911c);
    pub(super) const INTEGRITY_ERROR: Self = Self(0x911e);
    pub(super) const NO_SUCH_KEY: Self = Self(0x9140);
    pub(super) const LENGTH_ERROR: Self = Self(0x917e);
    pub(super) const PERMISSION_DENIED: Self = Self(0x919d);
    pub(super) const PARAMETER_ERROR: Self = Self(0x919e);
    pub(super) const AUTHENTICATION_DELAY: Self = Self(0x91ad);
    pub(super) const AUTHENTICATION_ERROR: Self = Self(0x91ae);
    pub(super) const BOUNDARY_ERROR: Self = Self(0x91be);
    pub(super) const COMMAND_ABORTED: Self = Self(0x91ca);
    pub(super) const FILE_NOT_FOUND: Self = Self(0x91f0);

    pub(super) const ISO_OK: Self = Self(0x9000);
    pub(super) const ISO_WRONG_LENGTH: Self = Self(0x6700);
    pub(super) const ISO_SECURITY: Self = Self(0x6982);
    pub(super) const ISO_CONDITIONS: Self = Self(0x6985);
    pub(super) const ISO_NOT_FOUND: Self = Self(0x6a82);
    pub(super) const ISO_PARAMETERS: Self = Self(0x6a86);
    pub(super) const ISO_INSTRUCTION: Self = Self(0x6d00);
    pub(super) const ISO_CLASS: Self = Self(0x6e00);
}
