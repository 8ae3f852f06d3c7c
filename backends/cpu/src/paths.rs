//! What this process may run: the instruction set of the kernels and, for bf16 products, AMX.

#[cfg(target_arch = "x86_64")]
use crate::amx::Amx;
use crate::isa::Isa;

#[derive(Clone, Copy)]
pub struct Paths {
    pub isa: Isa,
    #[cfg(target_arch = "x86_64")]
    pub amx: Option<Amx>,
}

impl Paths {
    /// Every combination this machine has, the fastest first; results of bf16 products differ between those with
    /// AMX and those without in the last bits.
    pub fn available() -> Vec<Paths> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        found.extend(Amx::detect().map(|amx| Paths { isa: Isa::available()[0], amx: Some(amx) }));
        found.extend(Isa::available().into_iter().map(|isa| Paths {
            isa,
            #[cfg(target_arch = "x86_64")]
            amx: None,
        }));
        found
    }

    /// The fastest.
    pub fn best() -> Paths {
        Self::available()[0]
    }

    pub fn name(&self) -> String {
        #[cfg(target_arch = "x86_64")]
        if self.amx.is_some() {
            return format!("{}, AMX", self.isa.name());
        }
        self.isa.name().into()
    }
}
