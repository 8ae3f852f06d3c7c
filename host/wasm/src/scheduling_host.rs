//! The interface `schedule-host`: the view that is lent, and the order that the guest writes.

use wasmtime::component::Resource;

use crate::contract::schedule_host;
use crate::error::Failure;
use crate::handles::{Order, ScheduleView as View};
use crate::lend;
use crate::state::State;

impl schedule_host::Host for State {}

/// Getters of numbers and of columns.
macro_rules! number {
    ($name:ident, $ty:ty) => {
        fn $name(&mut self, _: Resource<View>) -> wasmtime::Result<$ty> {
            lend::schedule(|view| view.$name())
        }
    };
}
macro_rules! column {
    ($name:ident, $ty:ty) => {
        fn $name(&mut self, _: Resource<View>) -> wasmtime::Result<Vec<$ty>> {
            lend::schedule(|view| view.$name().to_vec())
        }
    };
}

impl schedule_host::HostView for State {
    number!(now_us, u64);
    number!(token_budget, u32);
    number!(free_blocks, u32);
    number!(block_tokens, u32);
    number!(free_seqs, u32);
    column!(ids, u64);
    column!(pending, u32);
    column!(resident, u32);
    column!(generated, u32);
    column!(arrived_us, u64);
    column!(priority, i32);
    column!(tenant, u64);
    column!(deadline_us, u64);
    column!(prefix, u64);
    column!(finished, u64);

    fn attribute(&mut self, _: Resource<View>, index: u32, key: String) -> wasmtime::Result<Option<String>> {
        if index >= self.len {
            return Err(
                Failure::bad(format!("attribute of sequence {index}, and there are {}", self.len)).into()
            );
        }
        lend::schedule(|view| view.attribute(index as usize, &key).map(String::from))
    }

    fn drop(&mut self, _: Resource<View>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl schedule_host::HostOrder for State {
    fn run(&mut self, _: Resource<Order>, indices: Vec<u32>, tokens: Vec<u32>) -> wasmtime::Result<()> {
        if self.paired("run", indices.len(), tokens.len())? && self.known("run", &indices) {
            self.order.run(&indices, &tokens);
        }
        Ok(())
    }

    fn reject(&mut self, _: Resource<Order>, indices: Vec<u32>) -> wasmtime::Result<()> {
        self.add(indices.len())?;
        if self.known("reject", &indices) {
            self.order.reject(&indices);
        }
        Ok(())
    }

    fn drop(&mut self, _: Resource<Order>) -> wasmtime::Result<()> {
        Ok(())
    }
}
