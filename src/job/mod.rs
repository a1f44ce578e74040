//! Owns tests: definitions, console signals, KTAP, results and reports.
//! Never switches power.
