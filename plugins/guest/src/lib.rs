//! Makes a WebAssembly component of a policy: of a type that implements `tokenmill_policy::Scheduler` or
//! `tokenmill_policy::Sampler`, and `Default`.
//!
//! ```
//! use tokenmill_policy::sample::{Knobs, Sampler, View};
//!
//! /// Greedy, whatever the requests ask for.
//! #[derive(Default)]
//! pub struct Greedy;
//!
//! impl Sampler for Greedy {
//!     fn plan(&mut self, view: &dyn View, knobs: &mut Knobs) -> Result<(), tokenmill_policy::Error> {
//!         knobs.temperature.extend((0..view.ids().len() as u32).map(|row| (row, 0.0)));
//!         Ok(())
//!     }
//! }
//!
//! tokenmill_guest::export_sampler!(Greedy);
//! ```
//!
//! On any other target the macros expand to nothing, and the crate is the same policy compiled in.
//!
//! Invariant: knows no policy, and decides nothing. A column crosses the boundary when it is first asked for,
//! once a call, but a sampler's `ids` and `finished` when they change; answers cross it once, after the policy returned.

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod bindings;
#[cfg(target_arch = "wasm32")]
mod flush;
#[cfg(target_arch = "wasm32")]
mod host;
#[cfg(target_arch = "wasm32")]
mod logits;
#[cfg(target_arch = "wasm32")]
mod masks;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod sampling;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod scheduling;

/// Exports a type that implements `tokenmill_policy::Scheduler` and `Default` as the component's scheduler.
#[macro_export]
macro_rules! export_scheduler {
    ($policy:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::bindings::scheduling::{self, Error, Order, View};

            ::std::thread_local! {
                static INSTANCE: ::std::cell::RefCell<$crate::scheduling::Instance<$policy>> =
                    ::std::cell::RefCell::default();
            }

            struct Component;

            impl scheduling::Guest for Component {
                fn configure(config: ::std::string::String) -> ::std::result::Result<(), Error> {
                    INSTANCE.with_borrow_mut(|instance| instance.configure(&config))
                }

                fn plan(view: &View, order: &Order) -> ::std::result::Result<(), Error> {
                    INSTANCE.with_borrow_mut(|instance| instance.plan(view, order))
                }
            }

    scheduling::export_scheduling!(Component with_types_in $crate::bindings::scheduling);
        };
    };
}

/// Exports a type that implements `tokenmill_policy::Sampler` and `Default` as the component's sampler.
#[macro_export]
macro_rules! export_sampler {
    ($policy:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::bindings::sampling::{self, Choices, Error, Knobs, Logits, View};

            ::std::thread_local! {
                static INSTANCE: ::std::cell::RefCell<$crate::sampling::Instance<$policy>> =
                    ::std::cell::RefCell::default();
            }

            struct Component;

            impl sampling::Guest for Component {
                fn configure(config: ::std::string::String) -> ::std::result::Result<(), Error> {
                    INSTANCE.with_borrow_mut(|instance| instance.configure(&config))
                }

                fn plan(view: &View, knobs: &Knobs) -> ::std::result::Result<(), Error> {
                    INSTANCE.with_borrow_mut(|instance| instance.plan(view, knobs))
                }

                fn pick(
                    view: &View,
                    logits: &Logits,
                    rows: ::std::vec::Vec<u32>,
                    choices: &Choices,
                ) -> ::std::result::Result<(), Error> {
                    INSTANCE.with_borrow_mut(|instance| instance.pick(view, logits, &rows, choices))
                }
            }

    sampling::export_sampling!(Component with_types_in $crate::bindings::sampling);
        };
    };
}
