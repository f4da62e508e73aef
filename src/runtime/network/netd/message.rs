//! Questions and answers on the wire (RFC 1035, RFC 6891). Pure; takes any bytes.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record};

use super::zone::{self, Answer, Query, Zone};

/// Seconds that an answer may be kept: containers come and go.
const TIME_TO_LIVE: u32 = 5;
/// What a datagram may hold where the client has not said more (RFC 1035 section 4.2.1).
const SMALLEST: u16 = 512;
/// The most that is sent in a datagram, which never leaves the loopback of a namespace.
const LARGEST: u16 = 4096;

/// How the question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// What to do with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Reply(Vec<u8>),
    /// To be asked of these servers, or of the host's where there are none.
    Forward(Vec<String>),
    /// Not a question; an answer to it could go round in circles.
    Drop,
}

/// Decides what to do with a packet of the container `client`.
pub fn handle(zone: &Zone, client: &str, packet: &[u8], transport: Transport, turn: usize) -> Outcome {
    // Twelve bytes are a header; its top bit marks a response.
    if packet.len() < 12 || packet[2] & 0x80 != 0 {
        return Outcome::Drop;
    }
    let Ok(request) = Message::from_vec(packet) else { return malformed(packet) };
    let [question] = request.queries.as_slice() else { return failure(&request, ResponseCode::FormErr) };
    if request.metadata.op_code != OpCode::Query {
        return failure(&request, ResponseCode::NotImp);
    }
    if question.query_class() != DNSClass::IN {
        return failure(&request, ResponseCode::Refused);
    }
    let name = question.name().to_ascii();
    let query = Query { name: name.trim_end_matches('.').to_owned(), kind: question.query_type() };
    let data = match zone::answer(zone, client, &query, turn) {
        Answer::Addresses(addresses) => addresses.into_iter().map(record).collect(),
        Answer::Name(name) => Name::from_ascii(name + ".").into_iter().map(|name| RData::PTR(PTR(name))).collect(),
        Answer::Unknown => return failure(&request, ResponseCode::NXDomain),
        Answer::Refuse => return failure(&request, ResponseCode::Refused),
        Answer::Forward(servers) => return Outcome::Forward(servers),
    };
    let mut reply = respond(&request, ResponseCode::NoError);
    let records = |data: Vec<RData>| {
        data.into_iter().map(|data| Record::from_rdata(question.name().clone(), TIME_TO_LIVE, data)).collect::<Vec<_>>()
    };
    reply.metadata.authoritative = true;
    reply.add_answers(records(data));
    encode(&reply, limit(&request, transport))
}

fn record(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

/// What goes back when nobody could be asked.
pub fn server_failure(packet: &[u8]) -> Option<Vec<u8>> {
    match failure(&Message::from_vec(packet).ok()?, ResponseCode::ServFail) {
        Outcome::Reply(reply) => Some(reply),
        _ => None,
    }
}

/// Whether `reply` is one to `packet`: same id, same question.
pub fn is_reply_to(reply: &[u8], packet: &[u8]) -> bool {
    let (Ok(reply), Ok(request)) = (Message::from_vec(reply), Message::from_vec(packet)) else { return false };
    reply.metadata.message_type == MessageType::Response
        && reply.metadata.id == request.metadata.id
        && reply.metadata.op_code == request.metadata.op_code
        && reply.queries == request.queries
}

/// Whether another server may know better: this one failed or refused.
pub fn is_failure(reply: &[u8]) -> bool {
    let code = |message: Message| message.metadata.response_code;
    !matches!(Message::from_vec(reply).map(code), Ok(ResponseCode::NoError | ResponseCode::NXDomain))
}

/// The reply, cut to what the client takes in a datagram; it will ask again over TCP.
pub fn fit(reply: Vec<u8>, packet: &[u8], transport: Transport) -> Vec<u8> {
    let Ok(request) = Message::from_vec(packet) else { return reply };
    if reply.len() <= usize::from(limit(&request, transport)) {
        return reply;
    }
    let short = Message::from_vec(&reply).ok().and_then(|reply| reply.truncate().to_vec().ok());
    short.unwrap_or(reply)
}

/// A number that others can't guess, for the id of a question.
pub fn random_id() -> u16 {
    Message::query().metadata.id
}

/// The packet with another id.
pub fn with_id(packet: &[u8], id: u16) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet.iter_mut().zip(id.to_be_bytes()).for_each(|(byte, new)| *byte = new);
    packet
}

fn limit(request: &Message, transport: Transport) -> u16 {
    match (transport, &request.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, None) => SMALLEST,
        (Transport::Udp, Some(edns)) => edns.max_payload().clamp(SMALLEST, LARGEST),
    }
}

fn respond(request: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.add_queries(request.queries.iter().take(1).cloned());
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(LARGEST);
        reply.set_edns(edns);
    }
    reply
}

fn failure(request: &Message, code: ResponseCode) -> Outcome {
    encode(&respond(request, code), u16::MAX)
}

fn malformed(packet: &[u8]) -> Outcome {
    let id = u16::from_be_bytes([packet[0], packet[1]]);
    encode(&Message::error_msg(id, OpCode::Query, ResponseCode::FormErr), SMALLEST)
}

fn encode(reply: &Message, limit: u16) -> Outcome {
    match reply.to_vec() {
        Ok(bytes) if bytes.len() <= usize::from(limit) => Outcome::Reply(bytes),
        Ok(_) => reply.truncate().to_vec().map_or(Outcome::Drop, Outcome::Reply),
        Err(_) => Outcome::Drop,
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query as Question;
    use hickory_proto::rr::RecordType;
    use proptest::prelude::*;

    use super::*;
    use crate::runtime::network::netd::zone::Client;

    fn zone(members: u8) -> Zone {
        let mut zone = Zone::default();
        for last in 0..members {
            zone.add_endpoint("n", &format!("c{last}"), &["web".to_owned()], IpAddr::from([10, 0, 0, last]));
        }
        zone.add_client("c0", Client { networks: vec!["n".into()], outside: false, servers: vec![] });
        zone
    }

    fn question(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Question::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn reply(zone: &Zone, request: &Message, transport: Transport) -> Message {
        match handle(zone, "c0", &request.to_vec().unwrap(), transport, 0) {
            Outcome::Reply(bytes) => Message::from_vec(&bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn replies_carry_the_question_and_a_code() {
        let cases = [
            ("Web.", RecordType::A, ResponseCode::NoError, 2),
            ("web.", RecordType::AAAA, ResponseCode::NoError, 0),
            ("0.0.0.10.in-addr.arpa.", RecordType::PTR, ResponseCode::NoError, 1),
            ("nobody.", RecordType::A, ResponseCode::NXDomain, 0),
            ("example.com.", RecordType::A, ResponseCode::Refused, 0),
        ];
        for (name, kind, code, answers) in cases {
            let request = question(name, kind);
            let found = reply(&zone(2), &request, Transport::Udp);
            assert_eq!((found.metadata.response_code, found.answers.len()), (code, answers), "{name}");
            assert_eq!((found.metadata.id, &found.queries), (request.metadata.id, &request.queries));
            assert!(is_reply_to(&found.to_vec().unwrap(), &request.to_vec().unwrap()));
        }
    }

    #[test]
    fn what_does_not_fit_a_datagram_is_asked_again_over_tcp() {
        let (zone, mut request) = (zone(60), question("web.", RecordType::A));
        assert!(reply(&zone, &request, Transport::Udp).metadata.truncation);
        assert_eq!(reply(&zone, &request, Transport::Tcp).answers.len(), 60);
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        request.set_edns(edns);
        let whole = reply(&zone, &request, Transport::Udp);
        assert_eq!((whole.answers.len(), whole.edns.is_some()), (60, true));
    }

    #[test]
    fn only_questions_are_answered() {
        let mut request = question("web.", RecordType::A);
        request.metadata.op_code = OpCode::Status;
        assert_eq!(reply(&zone(1), &request, Transport::Udp).metadata.response_code, ResponseCode::NotImp);
        request.metadata.op_code = OpCode::Query;
        request.add_query(request.queries[0].clone());
        assert_eq!(reply(&zone(1), &request, Transport::Udp).metadata.response_code, ResponseCode::FormErr);
        request.queries.pop();
        request.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(reply(&zone(1), &request, Transport::Udp).metadata.response_code, ResponseCode::Refused);
        request.metadata.message_type = MessageType::Response;
        assert_eq!(handle(&zone(1), "c0", &request.to_vec().unwrap(), Transport::Udp, 0), Outcome::Drop);
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let valid = question("web.", RecordType::A).to_vec().unwrap();
        let mutated = (prop::collection::vec((0..valid.len(), any::<u8>()), 0..6), 0..=valid.len()).prop_map(
            move |(changes, length)| {
                let mut bytes = valid.clone();
                changes.into_iter().for_each(|(at, byte)| bytes[at] = byte);
                bytes.truncate(length);
                bytes
            },
        );
        prop_oneof![prop::collection::vec(any::<u8>(), 0..600), mutated]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn no_packet_is_too_strange(packet in bytes(), other in bytes()) {
            handle(&zone(3), "c0", &packet, Transport::Udp, 1);
            is_reply_to(&packet, &other);
            is_failure(&packet);
            fit(packet.clone(), &other, Transport::Udp);
            server_failure(&packet);
            with_id(&packet, 7);
        }
    }
}
