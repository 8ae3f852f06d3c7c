//! What wit-bindgen makes of the contract, once for each world.

pub mod scheduling {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "scheduling",
        pub_export_macro: true,
        export_macro_name: "export_scheduling",
        default_bindings_module: "tokenmill_guest::bindings::scheduling",
    });
    pub use exports::tokenmill::policy::scheduler::Guest;
    pub use tokenmill::policy::{
        host,
        schedule_host::{Order, View},
        types::Error,
    };
}

pub mod sampling {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "sampling",
        pub_export_macro: true,
        export_macro_name: "export_sampling",
        default_bindings_module: "tokenmill_guest::bindings::sampling",
    });
    pub use exports::tokenmill::policy::sampler::Guest;
    pub use tokenmill::policy::{
        sample_host::{Choices, Knobs, Logits, Mask, View},
        types::{Error, Ragged},
    };
}
