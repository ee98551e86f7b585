//! The layouts: Kafka's request schemas (`clients/src/main/resources/common/message/*Request.json`), names left out.

use kafka_protocol::messages::ApiKey;

use super::Kind::{Array, Blob, Fixed, Items, OptionalStruct, Struct, Text};
use super::{Field, Kind, MAX, NEVER, Shape};

const fn always(kind: Kind) -> Field {
    within(0, MAX, kind)
}

const fn since(from: i16, kind: Kind) -> Field {
    within(from, MAX, kind)
}

const fn within(from: i16, to: i16, kind: Kind) -> Field {
    Field { from, to, tag: None, kind }
}

const fn tagged(tag: u32, from: i16, kind: Kind) -> Field {
    Field { from, to: MAX, tag: Some(tag), kind }
}

pub(super) const SHAPES: &[Shape] = &[
    Shape { api: ApiKey::ApiVersions, flexible_from: 3, fields: &[since(3, Text), since(3, Text)] },
    Shape {
        api: ApiKey::Produce,
        flexible_from: 9,
        fields: &[
            since(3, Text),
            always(Fixed(2)),
            always(Fixed(4)),
            always(Array(&[
                within(0, 12, Text),
                since(13, Fixed(16)),
                always(Array(&[always(Fixed(4)), always(Blob)])),
            ])),
        ],
    },
    Shape {
        api: ApiKey::Fetch,
        flexible_from: 12,
        fields: &[
            tagged(0, 12, Text),
            within(0, 14, Fixed(4)),
            tagged(1, 15, Struct(&[since(15, Fixed(4)), since(15, Fixed(8))])),
            always(Fixed(4)),
            always(Fixed(4)),
            since(3, Fixed(4)),
            since(4, Fixed(1)),
            since(7, Fixed(4)),
            since(7, Fixed(4)),
            always(Array(&[
                within(0, 12, Text),
                since(13, Fixed(16)),
                always(Array(&[
                    always(Fixed(4)),
                    since(9, Fixed(4)),
                    always(Fixed(8)),
                    since(12, Fixed(4)),
                    since(5, Fixed(8)),
                    always(Fixed(4)),
                    tagged(0, 17, Fixed(16)),
                    tagged(1, 18, Fixed(8)),
                ])),
            ])),
            since(7, Array(&[within(7, 12, Text), since(13, Fixed(16)), since(7, Items(&Fixed(4)))])),
            since(11, Text),
        ],
    },
    Shape {
        api: ApiKey::ListOffsets,
        flexible_from: 6,
        fields: &[
            always(Fixed(4)),
            since(2, Fixed(1)),
            always(Array(&[
                always(Text),
                always(Array(&[always(Fixed(4)), since(4, Fixed(4)), always(Fixed(8)), within(0, 0, Fixed(4))])),
            ])),
            since(10, Fixed(4)),
        ],
    },
    Shape {
        api: ApiKey::Metadata,
        flexible_from: 9,
        fields: &[
            always(Array(&[since(10, Fixed(16)), always(Text)])),
            since(4, Fixed(1)),
            within(8, 10, Fixed(1)),
            since(8, Fixed(1)),
        ],
    },
    Shape {
        api: ApiKey::OffsetCommit,
        flexible_from: 8,
        fields: &[
            always(Text),
            since(1, Fixed(4)),
            since(1, Text),
            since(7, Text),
            within(2, 4, Fixed(8)),
            always(Array(&[
                always(Text),
                always(Array(&[
                    always(Fixed(4)),
                    always(Fixed(8)),
                    since(6, Fixed(4)),
                    within(1, 1, Fixed(8)),
                    always(Text),
                ])),
            ])),
        ],
    },
    Shape {
        api: ApiKey::OffsetFetch,
        flexible_from: 6,
        fields: &[
            within(0, 7, Text),
            within(0, 7, Array(&[within(0, 7, Text), within(0, 7, Items(&Fixed(4)))])),
            since(
                8,
                Array(&[
                    since(8, Text),
                    since(9, Text),
                    since(9, Fixed(4)),
                    since(8, Array(&[since(8, Text), since(8, Items(&Fixed(4)))])),
                ]),
            ),
            since(7, Fixed(1)),
        ],
    },
    Shape {
        api: ApiKey::FindCoordinator,
        flexible_from: 3,
        fields: &[within(0, 3, Text), since(1, Fixed(1)), since(4, Items(&Text))],
    },
    Shape {
        api: ApiKey::JoinGroup,
        flexible_from: 6,
        fields: &[
            always(Text),
            always(Fixed(4)),
            since(1, Fixed(4)),
            always(Text),
            since(5, Text),
            always(Text),
            always(Array(&[always(Text), always(Blob)])),
            since(8, Text),
        ],
    },
    Shape {
        api: ApiKey::Heartbeat,
        flexible_from: 4,
        fields: &[always(Text), always(Fixed(4)), always(Text), since(3, Text)],
    },
    Shape {
        api: ApiKey::LeaveGroup,
        flexible_from: 4,
        fields: &[always(Text), within(0, 2, Text), since(3, Array(&[since(3, Text), since(3, Text), since(5, Text)]))],
    },
    Shape {
        api: ApiKey::SyncGroup,
        flexible_from: 4,
        fields: &[
            always(Text),
            always(Fixed(4)),
            always(Text),
            since(3, Text),
            since(5, Text),
            since(5, Text),
            always(Array(&[always(Text), always(Blob)])),
        ],
    },
    Shape { api: ApiKey::DescribeGroups, flexible_from: 5, fields: &[always(Items(&Text)), since(3, Fixed(1))] },
    Shape { api: ApiKey::ListGroups, flexible_from: 3, fields: &[since(4, Items(&Text)), since(5, Items(&Text))] },
    Shape { api: ApiKey::DeleteGroups, flexible_from: 2, fields: &[always(Items(&Text))] },
    Shape {
        api: ApiKey::OffsetDelete,
        flexible_from: NEVER,
        fields: &[always(Text), always(Array(&[always(Text), always(Array(&[always(Fixed(4))]))]))],
    },
    Shape {
        api: ApiKey::CreateTopics,
        flexible_from: 5,
        fields: &[
            always(Array(&[
                always(Text),
                always(Fixed(4)),
                always(Fixed(2)),
                always(Array(&[always(Fixed(4)), always(Items(&Fixed(4)))])),
                always(Array(&[always(Text), always(Text)])),
            ])),
            always(Fixed(4)),
            since(1, Fixed(1)),
        ],
    },
    Shape {
        api: ApiKey::DeleteTopics,
        flexible_from: 4,
        fields: &[
            since(6, Array(&[since(6, Text), since(6, Fixed(16))])),
            within(0, 5, Items(&Text)),
            always(Fixed(4)),
        ],
    },
    Shape {
        api: ApiKey::DeleteRecords,
        flexible_from: 2,
        fields: &[
            always(Array(&[always(Text), always(Array(&[always(Fixed(4)), always(Fixed(8))]))])),
            always(Fixed(4)),
        ],
    },
    Shape {
        api: ApiKey::CreatePartitions,
        flexible_from: 2,
        fields: &[
            always(Array(&[always(Text), always(Fixed(4)), always(Array(&[always(Items(&Fixed(4)))]))])),
            always(Fixed(4)),
            always(Fixed(1)),
        ],
    },
    Shape {
        api: ApiKey::InitProducerId,
        flexible_from: 2,
        fields: &[always(Text), always(Fixed(4)), since(3, Fixed(8)), since(3, Fixed(2))],
    },
    Shape {
        api: ApiKey::OffsetForLeaderEpoch,
        flexible_from: 4,
        fields: &[
            since(3, Fixed(4)),
            always(Array(&[always(Text), always(Array(&[always(Fixed(4)), since(2, Fixed(4)), always(Fixed(4))]))])),
        ],
    },
    Shape {
        api: ApiKey::DescribeConfigs,
        flexible_from: 4,
        fields: &[
            always(Array(&[always(Fixed(1)), always(Text), always(Items(&Text))])),
            since(1, Fixed(1)),
            since(3, Fixed(1)),
        ],
    },
    Shape {
        api: ApiKey::AlterConfigs,
        flexible_from: 2,
        fields: &[
            always(Array(&[always(Fixed(1)), always(Text), always(Array(&[always(Text), always(Text)]))])),
            always(Fixed(1)),
        ],
    },
    Shape {
        api: ApiKey::IncrementalAlterConfigs,
        flexible_from: 1,
        fields: &[
            always(Array(&[
                always(Fixed(1)),
                always(Text),
                always(Array(&[always(Text), always(Fixed(1)), always(Text)])),
            ])),
            always(Fixed(1)),
        ],
    },
    Shape {
        api: ApiKey::DescribeCluster,
        flexible_from: 0,
        fields: &[always(Fixed(1)), since(1, Fixed(1)), since(2, Fixed(1))],
    },
    Shape {
        api: ApiKey::DescribeProducers,
        flexible_from: 0,
        fields: &[always(Array(&[always(Text), always(Items(&Fixed(4)))]))],
    },
    Shape {
        api: ApiKey::DescribeLogDirs,
        flexible_from: 2,
        fields: &[always(Array(&[always(Text), always(Items(&Fixed(4)))]))],
    },
    Shape {
        api: ApiKey::DescribeTopicPartitions,
        flexible_from: 0,
        fields: &[
            always(Array(&[always(Text)])),
            always(Fixed(4)),
            always(OptionalStruct(&[always(Text), always(Fixed(4))])),
        ],
    },
];
