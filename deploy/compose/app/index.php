<?php
/* An application that sends mail in the two ways that PHP applications do: with mail(), which runs sendmail, and
 * over SMTP. Sends one message in each way for a POST, and when it is run by hand. */

require '/usr/share/php/libphp-phpmailer/autoload.php';

const FROM = 'shop@example.com', TO = 'anna@example.net';

function with_mail(): string
{
    $sent = mail(TO, 'Sent with mail()', "Hello from mail().\n", ['From' => FROM], '-f' . FROM);
    return 'mail(): ' . ($sent ? 'sent' : 'not sent; sendmail says why in the log');
}

function over_smtp(): string
{
    $mail = new PHPMailer\PHPMailer\PHPMailer(true);
    $mail->isSMTP();
    $mail->Host = getenv('SMTP_HOST');
    $mail->Port = (int) getenv('SMTP_PORT');
    $mail->SMTPAutoTLS = false; // within the containers' network
    $mail->setFrom(FROM);
    $mail->addAddress(TO);
    $mail->Subject = 'Sent over SMTP';
    $mail->Body = "Hello from PHPMailer.\n";
    try {
        $mail->send();
        return 'SMTP: sent';
    } catch (PHPMailer\PHPMailer\Exception $error) {
        return 'SMTP: not sent: ' . $error->getMessage();
    }
}

$results = [];
if (PHP_SAPI === 'cli' || $_SERVER['REQUEST_METHOD'] === 'POST') {
    $results = [with_mail(), over_smtp()];
}
if (PHP_SAPI === 'cli') {
    echo implode("\n", $results), "\n";
    return;
}
?>
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>An application that sends mail</title>
<h1>An application that sends mail</h1>
<form method="post"><button>Send with mail() and over SMTP</button></form>
<?php foreach ($results as $result): ?>
<p><?= htmlspecialchars($result) ?></p>
<?php endforeach ?>
<p><a href="http://localhost:8787/messages">What went out</a>, <a href="http://localhost:8025/">the bridge</a></p>
</html>
