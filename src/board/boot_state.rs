//! Owns the states of a boot, with the names that reports and the lab file give them.
//! Never decides which one a board is in.

/// The stages of a boot, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BootState {
    Off,
    /// Power is on and nothing was heard yet.
    Power,
    Bootloader,
    Kernel,
    Userspace,
    CheckedIn,
    Running,
    Done,
}

impl BootState {
    pub const fn name(self) -> &'static str {
        match self {
            BootState::Off => "off",
            BootState::Power => "power",
            BootState::Bootloader => "bootloader",
            BootState::Kernel => "kernel",
            BootState::Userspace => "userspace",
            BootState::CheckedIn => "checked-in",
            BootState::Running => "running",
            BootState::Done => "done",
        }
    }
}
