//! Owns the lab's HTTP API, its store and its scheduler.
//! Never reads a console itself.
