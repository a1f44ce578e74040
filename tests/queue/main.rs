//! A lab with its queue, from outside: scripted boards, the real `hearth serve`, its API and its command line.

mod bad_input;
mod fixture;
mod lab;
mod openapi;
mod reservations;
