//! Field numbers are for ever: what was released in `proto/esker/v1` keeps its meaning.
//!
//! `tests/golden/proto/fields.txt` lists every service, method, message, field and enum value there is. A line may be added,
//! never changed or taken away; `ESKER_BLESS=1 cargo test --test proto` adds the new ones.

use std::collections::BTreeSet;

use esker::protocol::grpc::DESCRIPTORS;
use prost::Message as _;
use prost_types::field_descriptor_proto::Label;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

const LIST: &str = "tests/golden/proto/fields.txt";

fn message(path: &str, message: &DescriptorProto, lines: &mut BTreeSet<String>) {
    let path = format!("{path}.{}", message.name());
    lines.insert(format!("message {path}"));
    for field in &message.field {
        let kind = if field.type_name().is_empty() { field.r#type().as_str_name() } else { field.type_name() };
        let many = if field.label() == Label::Repeated { "repeated " } else { "" };
        let maybe = if field.proto3_optional() { "optional " } else { "" };
        lines.insert(format!("field {path} {} = {many}{maybe}{kind} {}", field.number(), field.name()));
    }
    for nested in &message.nested_type {
        self::message(&path, nested, lines);
    }
    for nested in &message.enum_type {
        enumeration(&path, nested, lines);
    }
}

fn enumeration(path: &str, of: &EnumDescriptorProto, lines: &mut BTreeSet<String>) {
    for value in &of.value {
        lines.insert(format!("value {path}.{} {} = {}", of.name(), value.number(), value.name()));
    }
}

/// Everything that clients of package `esker.v1` rely on, a line each.
fn released(set: &FileDescriptorSet) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for file in set.file.iter().filter(|file| file.package() == "esker.v1") {
        for service in &file.service {
            for method in &service.method {
                let stream = |on: bool| if on { "stream " } else { "" };
                lines.insert(format!(
                    "method {}.{}/{} ({}{}) returns ({}{})",
                    file.package(),
                    service.name(),
                    method.name(),
                    stream(method.client_streaming()),
                    method.input_type(),
                    stream(method.server_streaming()),
                    method.output_type(),
                ));
            }
        }
        for one in &file.message_type {
            message(file.package(), one, &mut lines);
        }
        for one in &file.enum_type {
            enumeration(file.package(), one, &mut lines);
        }
    }
    lines
}

#[test]
fn what_was_released_keeps_its_meaning() {
    let now = released(&FileDescriptorSet::decode(DESCRIPTORS).unwrap());
    assert!(now.contains("field esker.v1.DrainBrokerRequest 1 = TYPE_INT32 broker_id"), "{now:#?}");
    let listed = std::fs::read_to_string(LIST).unwrap_or_default();
    let before: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
    let gone: Vec<&String> = before.difference(&now).collect();
    assert!(gone.is_empty(), "these were changed or taken away; give new things new numbers: {gone:#?}");
    let new: Vec<&String> = now.difference(&before).collect();
    if std::env::var_os("ESKER_BLESS").is_some() {
        let text = now.into_iter().collect::<Vec<_>>().join("\n") + "\n";
        std::fs::write(LIST, text).unwrap();
    } else {
        assert!(new.is_empty(), "not listed yet (ESKER_BLESS=1 cargo test --test proto adds them): {new:#?}");
    }
}
