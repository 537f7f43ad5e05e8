// Sends one message with net/smtp and ends the session by Quit, or by Close as many Go programs do.
//
// hang_up ADDRESS CA-FILE plain|STARTTLS|SMTPS 1.2|1.3 Quit|Close
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/smtp"
	"os"
)

func main() {
	address, ca, way, version, ending := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]
	pem, err := os.ReadFile(ca)
	check(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	config := &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS13}
	if version == "1.2" {
		config.MaxVersion = tls.VersionTLS12
	}
	var connection net.Conn
	if way == "SMTPS" {
		connection, err = tls.Dial("tcp", address, config)
	} else {
		connection, err = net.Dial("tcp", address)
	}
	check(err)
	client, err := smtp.NewClient(connection, "127.0.0.1")
	check(err)
	if way == "STARTTLS" {
		check(client.StartTLS(config))
	}
	check(client.Mail("app@example.com"))
	check(client.Rcpt("anna@example.net"))
	data, err := client.Data()
	check(err)
	fmt.Fprint(data, "From: app@example.com\r\nSubject: door open\r\n\r\nThe door is open.\r\n")
	check(data.Close())
	if ending == "Quit" {
		check(client.Quit())
	} else {
		check(client.Close())
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
