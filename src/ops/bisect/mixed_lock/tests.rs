//! Tests of mixed locks.
