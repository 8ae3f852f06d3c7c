//! Types of the contract's handles. There is one of each for the time of a call, so they hold nothing.
#![allow(unreachable_pub, reason = "the generated code exports what it is given")]

pub struct ScheduleView;
pub struct Order;
pub struct SampleView;
pub struct Knobs;
pub struct Logits;
pub struct Choices;
