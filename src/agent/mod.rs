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

/// All that makes an image's boards check in, however slow they are.
pub const FILES: [AgentFile; 4] = [
    AgentFile {
        path: "/usr/lib/hearth/agent",
        mode: 0o755,
        content: Content::Text(include_str!("hearth-agent")),
    },
    AgentFile {
        path: "/usr/lib/systemd/system/hearth-agent.service",
        mode: 0o644,
        content: Content::Text(include_str!("hearth-agent.service")),
    },
    AgentFile {
        path: "/etc/systemd/system/multi-user.target.wants/hearth-agent.service",
        mode: 0o777,
        content: Content::Link("/usr/lib/systemd/system/hearth-agent.service"),
    },
    AgentFile {
        path: "/usr/lib/systemd/system.conf.d/50-hearth.conf",
        mode: 0o644,
        content: Content::Text(include_str!("slow-boards.conf")),
    },
];
