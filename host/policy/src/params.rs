/// How the tokens of one request are drawn when no policy says otherwise.
///
/// The order of operations and their sources stand in `tokenmill.h` at `tm_row`. The default is that of
/// the OpenAI API: temperature 1 and nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// 0 = greedy; finite and not negative.
    pub temperature: f32,
    /// In (0, 1]; 1 = off.
    pub top_p: f32,
    /// In [0, 1]; 0 = off.
    pub min_p: f32,
    /// Multiplicative, over the prompt and the output; above 0, 1 = off.
    pub repetition: f32,
    /// Once per token that was generated; 0 = off.
    pub presence: f32,
    /// Times the number a token was generated; 0 = off.
    pub frequency: f32,
    /// 0 = off.
    pub top_k: u32,
    /// The same seed gives the same text, whatever else runs.
    pub seed: u64,
    /// Added to the logits of single tokens; -inf bans a token.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            min_p: 0.0,
            repetition: 1.0,
            presence: 0.0,
            frequency: 0.0,
            top_k: 0,
            seed: 0,
            logit_bias: Vec::new(),
        }
    }
}

impl Params {
    /// Whether the logits depend on the tokens before them.
    pub fn penalises(&self) -> bool {
        self.repetition != 1.0 || self.presence != 0.0 || self.frequency != 0.0
    }

    /// The first field that is out of range, and why. Tokens are checked against `vocab`.
    pub fn check(&self, vocab: u32) -> Result<(), (&'static str, &'static str)> {
        let finite = |x: f32| x.is_finite();
        let rules: [(&str, bool, &str); 6] = [
            ("temperature", finite(self.temperature) && self.temperature >= 0.0, "must be at least 0"),
            ("top_p", self.top_p > 0.0 && self.top_p <= 1.0, "must be above 0 and at most 1"),
            ("min_p", (0.0..=1.0).contains(&self.min_p), "must be between 0 and 1"),
            ("repetition_penalty", finite(self.repetition) && self.repetition > 0.0, "must be above 0"),
            ("presence_penalty", finite(self.presence), "must be a finite number"),
            ("frequency_penalty", finite(self.frequency), "must be a finite number"),
        ];
        for (field, holds, why) in rules {
            if !holds {
                return Err((field, why));
            }
        }
        for &(token, bias) in &self.logit_bias {
            if token >= vocab {
                return Err(("logit_bias", "names a token outside the vocabulary"));
            }
            if bias.is_nan() || bias == f32::INFINITY {
                return Err(("logit_bias", "must be finite, or -inf to ban a token"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_fields_are_named() {
        let with = |change: fn(&mut Params)| {
            let mut params = Params::default();
            change(&mut params);
            params.check(100).map_err(|(field, _)| field)
        };
        assert_eq!(with(|_| {}), Ok(()));
        assert_eq!(with(|p| p.temperature = -1.0), Err("temperature"));
        assert_eq!(with(|p| p.temperature = f32::NAN), Err("temperature"));
        assert_eq!(with(|p| p.top_p = 0.0), Err("top_p"));
        assert_eq!(with(|p| p.top_p = f32::NAN), Err("top_p"));
        assert_eq!(with(|p| p.min_p = 1.5), Err("min_p"));
        assert_eq!(with(|p| p.repetition = 0.0), Err("repetition_penalty"));
        assert_eq!(with(|p| p.presence = f32::INFINITY), Err("presence_penalty"));
        assert_eq!(with(|p| p.logit_bias = vec![(100, 0.0)]), Err("logit_bias"));
        assert_eq!(with(|p| p.logit_bias = vec![(1, f32::NAN)]), Err("logit_bias"));
        assert_eq!(with(|p| p.logit_bias = vec![(1, f32::NEG_INFINITY)]), Ok(()));
    }
}
