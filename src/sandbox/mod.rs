//! Owns the namespaces in which foreign maintainer scripts run: mounts, private binfmt_misc, syscall filter.
//! Never decides what runs in them.
