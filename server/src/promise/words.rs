//! What a ping and its answer carry besides the promises: facts of the bricks.

use proto::BrickId;
use proto_rules::SetKey;
use proto_rules::promise::{Answer, Ping};
use serde::{Deserialize, Serialize};

use crate::brick::Facts;

/// Encoded as JSON: a few hundred bytes per set, three times a second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PingMessage {
    pub ping: Ping,
    pub facts: Vec<(SetKey, BrickId, Facts)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerMessage {
    pub answer: Answer,
    pub facts: Vec<(SetKey, BrickId, Facts)>,
}
