//! Owns the program that boards run to check in and to work: the shell agent, its unit, and systemd's patience.
//! Never runs on the host.

/// A file of the agent, for the master image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentFile {
    /// Where it goes, absolute.
    pub path: &'static str,
    pub mode: u32,
    pub content: Content,
}

/// What an [`AgentFile`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Text(&'static str),
    /// A symbolic link's target.
    Link(&'static str),
}

/// The agent itself, which is started by whatever the root has for that.
pub const AGENT: &str = include_str!("hearth-agent");
/// The unit that starts it, and the setting that has systemd wait for slow boards.
pub const UNIT: &str = include_str!("hearth-agent.service");
pub const SLOW_BOARDS: &str = include_str!("slow-boards.conf");
/// Stands in the place of another init and starts that, with the agent beside it.
pub const INIT: &str = include_str!("hearth-init");
/// What the former starts.
pub const KEEP: &str = include_str!("keep-agent");

/// All that makes an image's boards check in, however slow they are.
pub const FILES: [AgentFile; 4] = [
    AgentFile {
        path: "/usr/lib/hearth/agent",
        mode: 0o755,
        content: Content::Text(AGENT),
    },
    AgentFile {
        path: "/usr/lib/systemd/system/hearth-agent.service",
        mode: 0o644,
        content: Content::Text(UNIT),
    },
    AgentFile {
        path: "/etc/systemd/system/multi-user.target.wants/hearth-agent.service",
        mode: 0o777,
        content: Content::Link("/usr/lib/systemd/system/hearth-agent.service"),
    },
    AgentFile {
        path: "/usr/lib/systemd/system.conf.d/50-hearth.conf",
        mode: 0o644,
        content: Content::Text(SLOW_BOARDS),
    },
];
