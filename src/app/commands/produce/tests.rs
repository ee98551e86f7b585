use super::*;

fn typed(arguments: &[&str]) -> ProduceCommand {
    let matches = command().try_get_matches_from([&["produce"], arguments].concat()).unwrap();
    parse(&matches, &BTreeMap::new()).unwrap()
}

#[test]
fn a_line_is_cut_at_the_first_separator() {
    let command = typed(&["t", "-k", "::", "-H", "a=b=c"]);
    let record = record_of(&command, b"key::value::more");
    assert_eq!((record.key.as_deref(), record.value.as_deref()), (Some(&b"key"[..]), Some(&b"value::more"[..])));
    assert_eq!(record.headers, [("a".to_owned(), Some(Bytes::from_static(b"b=c")))]);
    let plain = record_of(&command, b"no key");
    assert_eq!((plain.key, plain.value.as_deref()), (None, Some(&b"no key"[..])));
    assert_eq!(record_of(&command, b"::").key.as_deref(), Some(&b""[..]));
}

#[tokio::test]
async fn lines_end_at_line_feeds_and_at_the_end() {
    let mut reader = BufReader::with_capacity(2, &b"one\n\ntwo\r\nrest"[..]);
    let mut found = Vec::new();
    let mut line = Vec::new();
    while next_line(&mut reader, &mut line).await.unwrap() {
        found.push(String::from_utf8(std::mem::take(&mut line)).unwrap());
    }
    assert_eq!(found, ["one", "", "two\r", "rest"]);
}
