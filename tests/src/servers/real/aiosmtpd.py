"""Takes mail for every user of example.test, and stores it octet for octet as it came."""

import asyncio
import itertools
import os
import re
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

FOLDER, PORT, USER, PASSWORD = sys.argv[1:]
NUMBERS = itertools.count(1)
MESSAGE_ID = re.compile(rb"(?im)^message-id: (<[^>\r\n]*>)")


def log(line):
    with open(f"{FOLDER}/server.log", "a", encoding="utf-8") as file:
        file.write(line + "\n")


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        user, _, domain = address.rpartition("@")
        if domain not in ("example.test", "\u03b4\u03bf\u03ba\u03b9\u03bc\u03ae.example.test"):
            return "550 5.7.1 relay access denied"
        if user == "refused":
            return "550 5.1.1 no such user here"
        if user == "greylisted":
            return "450 4.2.0 Greylisted, try again later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server, session, envelope):
        number = f"{next(NUMBERS):012}"
        protocol = "UTF8SMTP" if envelope.smtp_utf8 else "ESMTP"
        top = (
            f"Return-path: <{envelope.mail_from}>\r\n"
            f"Envelope-to: {', '.join(envelope.rcpt_tos)}\r\n"
            f"Received: from {session.host_name} with {protocol} id {number};\r\n"
        )
        with open(f"{FOLDER}/mail/tmp/{number}", "wb") as file:
            file.write(top.encode() + envelope.content)
        os.rename(f"{FOLDER}/mail/tmp/{number}", f"{FOLDER}/mail/new/{number}")
        found = MESSAGE_ID.search(envelope.content)
        log(f"{number}: message-id={found[1].decode() if found else '<>'}")
        return f"250 2.0.0 OK: stored as {number}"


def authenticate(server, session, envelope, mechanism, data):
    is_right = (
        isinstance(data, LoginPassword)
        and data.login.decode() == USER
        and data.password.decode() == PASSWORD
    )
    log(f"login: mechanism={mechanism}, {'right' if is_right else 'wrong'}")
    # Unhandled, so that the server itself answers 535.
    return AuthResult(success=is_right, handled=False)


class Server(SMTP):
    # By default, it refuses a line of more than 998 octets.
    line_length_limit = 65536


async def main():
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(f"{FOLDER}/server.pem")
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(
        lambda: Server(
            Handler(),
            hostname="mail.example.test",
            tls_context=tls,
            authenticator=authenticate,
            enable_SMTPUTF8=True,
            data_size_limit=67108864,
            loop=loop,
        ),
        "127.0.0.1",
        int(PORT),
    )
    os.setgid(65534)
    os.setuid(65534)
    await listener.serve_forever()


asyncio.run(main())
