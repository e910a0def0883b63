//! The machine as a whole: what scripts may do, what they may not, and what happens to those that try.

mod budget;
mod escapes;
mod functions;
mod golden;
mod limits;
mod runs;
