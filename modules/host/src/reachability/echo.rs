//! ICMP echo on the wire: RFC 792 and RFC 4443. Bytes only, no sockets.

/// Marks our requests among those of other processes: a raw socket hears every reply that the machine gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token(pub(super) u64);

const HEADER: usize = 8;
const V4_REQUEST: u8 = 8;
const V4_REPLY: u8 = 0;
const V6_REQUEST: u8 = 128;
const V6_REPLY: u8 = 129;

/// An echo request with the token as its payload.
pub(super) fn request(v4: bool, token: Token, sequence: u16) -> [u8; HEADER + 8] {
    let mut packet = [0; HEADER + 8];
    packet[0] = if v4 { V4_REQUEST } else { V6_REQUEST };
    // A datagram socket puts its own identifier here; the token tells us apart in both cases.
    packet[4..6].copy_from_slice(&token.0.to_be_bytes()[..2]);
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    packet[HEADER..].copy_from_slice(&token.0.to_be_bytes());
    if v4 {
        // ICMPv6's covers addresses too; the kernel fills it in.
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The sequence number, if `packet` is a reply to one of our requests. `with_header`: an IPv4 header stands before it.
pub(super) fn reply(v4: bool, with_header: bool, token: Token, packet: &[u8]) -> Option<u16> {
    let packet = if with_header {
        let words = usize::from(packet.first()? & 0x0f);
        packet.get(words * 4..)?
    } else {
        packet
    };
    let wanted = if v4 { V4_REPLY } else { V6_REPLY };
    (packet.len() >= HEADER + 8
        && packet[0] == wanted
        && packet[HEADER..HEADER + 8] == token.0.to_be_bytes())
    .then(|| u16::from_be_bytes([packet[6], packet[7]]))
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([
            pair[0],
            pair.get(1).copied().unwrap_or(0),
        ]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Folded to 16 bits above.
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: Token = Token(0x0102_0304_0506_0708);

    #[test]
    fn a_request_checks_out() {
        let packet = request(true, TOKEN, 0x1234);
        assert_eq!(checksum(&packet), 0);
        assert_eq!(packet[..2], [8, 0]);
        assert_eq!(packet[6..8], [0x12, 0x34]);
    }

    #[test]
    fn only_our_replies_are_heard() {
        let mut mine = request(true, TOKEN, 7);
        assert_eq!(
            reply(true, false, TOKEN, &mine),
            None,
            "a request is no reply"
        );
        mine[0] = 0;
        assert_eq!(reply(true, false, TOKEN, &mine), Some(7));
        assert_eq!(reply(true, false, Token(1), &mine), None, "somebody else's");
        assert_eq!(reply(true, false, TOKEN, &mine[..12]), None, "cut off");
        let mut with_header = vec![0x46; 1];
        with_header.resize(24, 0);
        with_header.extend_from_slice(&mine);
        assert_eq!(reply(true, true, TOKEN, &with_header), Some(7));
        assert_eq!(reply(true, true, TOKEN, &[]), None);
        let mut six = request(false, TOKEN, 9);
        six[0] = 129;
        assert_eq!(reply(false, false, TOKEN, &six), Some(9));
    }
}
